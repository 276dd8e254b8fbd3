"""The one exception users meet."""


class ClzooError(Exception):
    """An error of the user's input or data.

    The message names the file or key, what was found, what was expected, and what to type next. The command line
    prints it without a traceback and exits with 1.
    """


class UnreadableImageError(ClzooError):
    """One image that cannot be decoded; the message is the reason alone, without the path."""
