"""How something goes out of use; the policy is docs/compatibility.md."""

from __future__ import annotations

import warnings

from clzoo.wording import plain


def deprecated(old: str, new: str, *, gone_in: str) -> str:
    """Warn the caller of the function that calls this one, and return the sentence, for a command to print.

    Args:
        old: what was used, as the user wrote it.
        new: what to write instead.
        gone_in: version in which `old` becomes an error.
    """
    said = plain(f"clzoo: {old} is deprecated and goes in {gone_in}; write {new}")
    warnings.warn(said, DeprecationWarning, stacklevel=3)
    return said
