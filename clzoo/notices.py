"""Notices reach the terminal in a plain Python session too, where nobody has set up logging."""

from __future__ import annotations

import logging
import sys

from clzoo.wording import plain


class _Notices(logging.Handler):
    """Prints to standard error as long as the application has no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(f"clzoo: {record.getMessage()}", file=sys.stderr)


class _Plain(logging.Filter):
    """Spells out in every record, whoever handles it, what a name of others has in it to steer a terminal."""

    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = plain(record.getMessage()), ()
        return True


def show_notices() -> None:
    """Let the `clzoo` logger say what it takes from INFO on: which device, which license, what was skipped."""
    logger = logging.getLogger("clzoo")
    logger.addFilter(_Plain())
    logger.addHandler(_Notices())
    logger.setLevel(logging.INFO)
