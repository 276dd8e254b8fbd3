"""Words of others inside our own: spelt out where they would steer a terminal, cut where they are long.

File names, labels, names of models and the errors of other libraries go into our messages and tables. In a terminal an
escape sequence among them could move the cursor, a line break could forge a line of ours, and a mark that turns the
direction of writing could hide an ending.
"""

from __future__ import annotations

import reprlib
import shlex
import unicodedata

LONGEST = 4000
"""Characters of a message; more is cut out of its middle: its end says what to type."""

_VALUE = reprlib.Repr()
_VALUE.maxlevel = 3
_VALUE.maxstring = _VALUE.maxlong = _VALUE.maxother = 80


def plain(text: object, longest: int = LONGEST) -> str:
    """`str(text)` as one line of visible characters and spaces; everything else is spelt out, as "\\x1b", "\\u202e".

    A byte of a file name that is no UTF-8 is spelt out too ("\\xff"), so that every terminal can print it.
    """
    text = cut(str(text), longest)
    if text.isprintable():
        return text
    return "".join(
        character if character.isprintable() or unicodedata.category(character) == "Zs" else _spelt_out(character)
        for character in text
    )


def plain_lines(text: object) -> str:
    """As `plain`, with line breaks kept: for text of several lines. Lines after the first are indented."""
    first, *rest = cut(str(text), LONGEST).split("\n")
    return "\n".join([plain(first), *(f"  {plain(line.strip())}" for line in rest if line.strip())])


def shown(value: object) -> str:
    """`repr(value)` as `plain`, cut: long texts, long lists and what is nested deep are shortened."""
    try:
        return plain(_VALUE.repr(value))
    except ValueError:  # an integer of more digits than Python prints
        return f"a very long {type(value).__name__}"


def cut(text: str, longest: int) -> str:
    """At most about so many characters, left out in the middle, with a note of how many."""
    if len(text) <= longest:
        return text
    half = longest // 2
    return f"{text[:half]} ... ({len(text) - 2 * half:,} characters left out) ... {text[-half:]}"


def first_line(error: BaseException) -> str:
    """What an error says in its first line, without a full stop; the name of its type where it says nothing."""
    return str(error).strip().partition("\n")[0].rstrip(".\r") or type(error).__name__


def type_and_first_line(error: BaseException) -> str:
    """As `first_line`, behind the name of the type: for errors whose text alone says little, such as of a network."""
    name, line = type(error).__name__, first_line(error)
    return name if line == name else f"{name}: {line}"


def clzoo_command(*words: object) -> str:
    """What to type to run clzoo, with names quoted that a shell would take apart: `clzoo_command("embed", folder)`."""
    return shlex.join(["clzoo", *map(str, words)])


def _spelt_out(character: str) -> str:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python carries a byte that is no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")
