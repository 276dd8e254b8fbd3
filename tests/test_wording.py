"""Words of others inside our own stay one line of visible characters, of bounded length."""

import ast
import pickle
import re
import sys
from pathlib import Path

import pytest

import clzoo
from clzoo.cli import cli
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.wording import LONGEST, clzoo_command, first_line, plain, plain_lines, shown, type_and_first_line

HOSTILE = "a\x1b[31m\x07\r\nb\u202egnp.\u2066\u200b\x9b\x7f\u2028"


@pytest.mark.parametrize("text", ["photo 1.jpg", "Straße/наука/写真.jpg", "a\u00a0b\u3000c", "C:\\new\\x1b.png", "🦊"])
def test_ordinary_names_stay_as_they_are(text):
    assert plain(text) == text


def test_what_steers_a_terminal_is_spelt_out():
    assert plain(HOSTILE) == r"a\x1b[31m\x07\r\nb\u202egnp.\u2066\u200b\x9b\x7f\u2028"
    assert plain("caf\udce9.jpg") == r"caf\xe9.jpg"
    assert plain("\ud800") == r"\ud800"


def test_every_character_of_unicode_comes_out_printable_and_encodable():
    for code in range(sys.maxunicode + 1):
        found = plain(chr(code))
        assert found.encode("utf-8")
        assert all(character.isprintable() or character.isspace() for character in found)
        assert "\n" not in found
        assert "\r" not in found


@pytest.mark.parametrize(
    ("error", "line", "typed"),
    [
        (EOFError(), "EOFError", "EOFError"),
        (OSError("\n disk full.\r\nerror: mine"), "disk full", "OSError: disk full"),
        (KeyError("x"), "'x'", "KeyError: 'x'"),
    ],
)
def test_of_an_error_of_others_its_first_line_is_said_or_its_type(error, line, typed):
    assert (first_line(error), type_and_first_line(error)) == (line, typed)


def test_lines_of_a_text_are_kept_and_cannot_pass_for_lines_of_ours():
    assert plain_lines("one\nerror: two\x1b\n\n three") == "one\n  error: two\\x1b\n  three"


LONG = {
    "text": "x" * 10**6,
    "list": list(range(10**5)),
    "tables": {"a": {"b": {"c": {"d": "x" * 10**5}}}},
    "number": 10**10_000,
    "numbers": [10**10_000],
    "bytes": b"x" * 9**5,
}


@pytest.mark.parametrize("kind", LONG)
def test_values_are_shown_in_a_few_hundred_characters(kind):
    value = LONG[kind]
    assert len(shown(value)) < 400
    assert shown(value).isprintable()


def test_small_values_are_shown_as_python_writes_them():
    assert shown({"a": [1, 0.5, None, "b"]}) == "{'a': [1, 0.5, None, 'b']}"


def test_an_error_is_one_line_and_bounded_and_ends_with_what_to_type():
    error = ClzooError(f"{HOSTILE * 10_000} is wrong. Type: clzoo list")
    assert "\n" not in str(error)
    assert str(error).isprintable()
    assert len(str(error)) < 8 * LONGEST
    assert str(error).endswith("Type: clzoo list")


def test_details_of_an_error_are_lines_of_their_own_and_counted_where_they_are_many():
    lines = str(ClzooError("head\nline", [f"detail\n{number}" for number in range(100)])).split("\n")
    assert lines[:2] == [r"head\nline", r"  detail\n0"]
    assert lines[-1] == "  and 60 more"
    assert len(lines) == 42


@pytest.mark.parametrize("kind", [ClzooError, UnreadableImageError])
def test_an_error_survives_its_way_between_processes(kind):
    error = kind("head\nline", ["one", "two"])
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is kind
    assert str(again) == str(error)


def test_a_command_to_type_quotes_the_names_that_a_shell_would_take_apart():
    assert clzoo_command("embed", Path("my photos"), "--batch-size", 8) == "clzoo embed 'my photos' --batch-size 8"
    assert clzoo_command("curate", "leaks", "TRAIN", "a&b") == "clzoo curate leaks TRAIN 'a&b'"


def test_no_message_puts_a_value_into_a_command_without_quotes():
    """A name in a command to type has been through `clzoo_command`: `clzoo embed {folder}` breaks at a space."""
    verbs = "|".join(cli.list_commands(None))
    by_hand = re.compile(rf"clzoo ({verbs})( [\w./-]+)* \0")
    assert by_hand.search("Type: clzoo curate leaks TRAIN --out \0")
    found = [
        f"{path.name}:{node.lineno}"
        for path in Path(clzoo.__file__).parent.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.JoinedStr)
        and by_hand.search("".join(part.value if isinstance(part, ast.Constant) else "\0" for part in node.values))
    ]
    assert not found, f"use clzoo.wording.clzoo_command in {found}"
