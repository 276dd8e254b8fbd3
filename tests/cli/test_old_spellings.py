"""Options that are taken by an old name say their new one; docs/compatibility.md lists all of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import click
import pytest

import clzoo.cli
from clzoo.cli import cli
from clzoo.embed.shares import Share
from clzoo.zoo import pushing

ROOT = Path(__file__).parents[2]
OLD = {"--shard": "--share", "--accept-licence": "--accept-license"}


def commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command]]:
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield name, command
        if isinstance(command, click.Group):
            yield from ((f"{name} {below}", each) for below, each in commands(command, context))


def options() -> Iterator[tuple[str, click.Option]]:
    for name, command in commands(cli, click.Context(cli)):
        yield from ((name, option) for option in command.params if isinstance(option, click.Option))


def test_an_option_has_one_name_or_the_old_one_is_a_hidden_option_that_the_policy_lists() -> None:
    assert not [(name, option.opts) for name, option in options() if len([o for o in option.opts if "--" in o]) > 1]
    hidden = {option.opts[0] for _, option in options() if option.hidden}
    assert hidden == OLD.keys()
    listed = re.findall(r"^\| `(--[a-z-]+)[^|]*\| `(--[a-z-]+)", (ROOT / "docs/compatibility.md").read_text(), re.M)
    assert dict(listed) == OLD


@pytest.mark.parametrize("option", OLD.values())
def test_the_new_name_says_nothing(option, pushed, shared, clzoo_says) -> None:
    words = ["push", "folder", "me/model", option] if "license" in option else ["embed", "x", option, "1/2"]
    _, _, err = clzoo_says(*words)
    assert "deprecated" not in err
    assert pushed == ([True] if "license" in option else [])
    assert shared == ([] if "license" in option else [Share(1, 2)])


@pytest.fixture
def pushed(monkeypatch):
    """What was said of the license, in each push."""
    found = []
    monkeypatch.setattr(pushing, "push", lambda *_, accept_license, **__: found.append(accept_license) or "url")
    return found


@pytest.fixture
def shared(monkeypatch):
    """The share of each call of `embed_folder`, which then ends."""
    found = []

    def record(*_, share, **__):
        found.append(share)
        raise clzoo.errors.ClzooError("enough")

    monkeypatch.setattr(import_module("clzoo.embed.pipeline"), "embed_folder", record)
    return found


def test_the_old_spelling_of_the_consent_is_taken_and_names_the_new_one(pushed, clzoo_says) -> None:
    with pytest.warns(DeprecationWarning, match="write --accept-license"):
        code, out, err = clzoo_says("push", "folder", "me/model", "--accept-licence", "--quiet")
    assert (code, out) == (0, "url\n")
    assert err.splitlines() == ["clzoo: --accept-licence is deprecated and goes in 0.3; write --accept-license"]
    assert pushed == [True]
    assert clzoo_says("push", "folder", "me/model")[0] == 0
    assert pushed == [True, False]


def test_the_old_spelling_of_the_share_is_taken_and_names_the_new_one(shared, clzoo_says) -> None:
    with pytest.warns(DeprecationWarning, match="write --share"):
        _, _, err = clzoo_says("embed", "images", "--shard", "2/3", "--quiet")
    assert err.splitlines()[0] == "clzoo: --shard is deprecated and goes in 0.3; write --share"
    assert shared == [Share(2, 3)]
    with pytest.warns(DeprecationWarning, match="write --share"):
        code, _, err = clzoo_says("store", "index", ".", "--shard", "2/3")
    assert code == 2
    assert "--share needs --factory" in err


@pytest.mark.parametrize("order", [("--share", "1/2", "--shard", "2/2"), ("--shard", "2/2", "--share", "1/2")])
def test_both_spellings_at_once_are_wrong_usage(order, shared, clzoo_says) -> None:
    code, _, err = clzoo_says("embed", "images", *order)
    assert code == 2
    assert "--shard is the old name of --share: give --share alone" in err
    assert shared == []


@pytest.mark.parametrize("command", [["embed"], ["store", "index"], ["push"]])
def test_help_names_the_new_spelling_alone(command, clzoo_says) -> None:
    _, out, _ = clzoo_says(*command, "--help")
    assert not [old for old in OLD if old in out]
    assert [new for new in OLD.values() if new in out]
