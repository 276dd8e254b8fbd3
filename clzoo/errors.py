"""The one exception users meet."""

from __future__ import annotations

from collections.abc import Sequence

from clzoo.wording import cut, plain

_DETAILS = 40  # lines below the message
_DETAIL = 400  # characters of one


class ClzooError(Exception):
    """An error of the user's input or data.

    The message names the file or key, what was found, what was expected, and what to type next. The command line
    prints it without a traceback and exits with 1. It is one line of visible characters and of bounded length,
    whatever the names and values in it hold; `details` are lines below it.
    """

    def __init__(self, message: str, details: Sequence[str] = ()) -> None:
        super().__init__(cut(message, 1 << 16), tuple(details))  # as given: what pickle rebuilds it from

    def __str__(self) -> str:
        message, details = self.args
        lines = [plain(message), *(f"  {plain(detail, _DETAIL)}" for detail in details[:_DETAILS])]
        if len(details) > _DETAILS:
            lines.append(f"  and {len(details) - _DETAILS:,} more")
        return "\n".join(lines)


class UnreadableImageError(ClzooError):
    """One image that cannot be decoded; the message is the reason alone, without the path."""
