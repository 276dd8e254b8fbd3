"""Notices reach the terminal in a plain Python session too, where nobody has set up logging."""

from __future__ import annotations

import logging
import sys


class _Notices(logging.Handler):
    """Prints to standard error as long as the application has no logging of its own."""

    def emit(self, record: logging.LogRecord) -> None:
        if not logging.getLogger().handlers:
            print(f"clzoo: {record.getMessage()}", file=sys.stderr)


def show_notices() -> None:
    """Let the `clzoo` logger say what it takes from INFO on: which device, which licence, what was skipped."""
    logger = logging.getLogger("clzoo")
    logger.addHandler(_Notices())
    logger.setLevel(logging.INFO)
