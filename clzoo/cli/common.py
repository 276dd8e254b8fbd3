"""What the commands share: logging to the terminal, `--quiet`, and how results are printed.

Everything that a command prints goes through here: names of others are spelt out where they would steer the terminal
(`clzoo.wording`).
"""

from __future__ import annotations

import functools
import json
import logging
import math
import os
import re
import shlex
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import click

from clzoo.deprecation import deprecated
from clzoo.files import is_special, special_refusal
from clzoo.wording import plain


def quiet_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--quiet`: warnings and errors only. Without it the `clzoo` logger writes to standard error."""

    def set_up_logging(_: click.Context, __: click.Parameter, quiet: bool) -> bool:
        logger = logging.getLogger("clzoo")
        logger.handlers = [_TerminalHandler()]
        logger.setLevel(logging.WARNING if quiet else logging.INFO)
        return quiet

    return click.option(
        "--quiet", is_flag=True, help="Print warnings and errors only.", callback=set_up_logging, is_eager=True
    )(function)


def max_pixels_option(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--max-pixels`, to every command that decodes images; it holds for the process."""

    def allow(_: click.Context, __: click.Parameter, pixels: int | None) -> None:
        if pixels is not None:
            from clzoo.images import set_max_pixels

            set_max_pixels(pixels)

    return click.option(
        "--max-pixels",
        type=click.IntRange(min=1),
        metavar="N",
        help="Refuse images of more pixels.  [default: 89478485]",
        callback=allow,
        expose_value=False,
    )(function)


class Minutes(click.ParamType):
    """Above 0 and finite, or 0 too: a range alone lets "nan" pass."""

    name = "number"

    def __init__(self, *, zero: bool = False) -> None:
        self._zero = zero

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        try:
            minutes = float(value)
        except ValueError:
            minutes = math.nan
        if not (0 < minutes < math.inf or (self._zero and minutes == 0)):
            expected = "number of at least 0" if self._zero else "number above 0"
            self.fail(f"{value!r} is no {expected}, such as 30. Without it there is no limit.", param, ctx)
        return minutes


class _OutputFile(click.Path):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path = super().convert(value, param, ctx)
        if isinstance(path, Path) and is_special(path):
            self.fail(special_refusal(path), param, ctx)
        return path


def output_file() -> click.Path:
    """The type of an option that names a file to write; what cannot be one is refused before the work."""
    return _OutputFile(dir_okay=False, writable=True, path_type=Path)


class Remembering(click.Command):
    """Keeps its arguments as they were typed, to print them again: `this_command`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        ctx.meta["clzoo.typed"] = list(args)
        return super().parse_args(ctx, args)


def this_command() -> str:
    """What was typed to a `Remembering` command, as it can be typed again in this folder."""
    words = [_short(sys.executable), "-m", "clzoo"]
    if Path(sys.argv[0]).stem == "clzoo":
        words = [_short(sys.argv[0])]
    if (processes := os.environ.get("WORLD_SIZE", "1")) != "1":
        here = os.environ.get("LOCAL_WORLD_SIZE", processes)
        launcher = [] if here == processes else [f"--nnodes={int(processes) // int(here)}"]  # and where they meet
        words = ["torchrun", *launcher, f"--nproc-per-node={here}", "-m", "clzoo"]
    context = click.get_current_context()
    return shlex.join([*words, context.info_name or "", *context.meta["clzoo.typed"]])


def say_how_to_go_on(folder: Path, mark: str) -> None:
    """What is left where a person stopped: `mark` is the file that makes `folder` a model."""
    usable = f"as far as it came it is a model: {folder}. " if (folder / mark).is_file() else ""
    say(f"{usable}to go on, type: {this_command()}", err=True)


def _short(program: str) -> str:
    """Its name alone where that finds the same program."""
    return Path(program).name if shutil.which(Path(program).name) == program else program


def share_option(help: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Add `--share I/N`, also by its old name `--shard`."""

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        return old_spelling("--shard", "--share")(click.option("--share", metavar="I/N", help=help)(function))

    return add


def old_spelling(
    old: str, new: str, *, gone_in: str = "0.3", **attributes: Any
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Go on taking an option by its old name, with a line on standard error that names the new one.

    To be put above the option `new`, whose value it sets. `--help` does not show it. The policy: docs/compatibility.md.

    Args:
        gone_in: version in which the old name becomes an error.
        attributes: of `click.option`, as the new name has them: `is_flag`, `type`.
    """
    name, old_name = (option.removeprefix("--").replace("-", "_") for option in (new, old))

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def command(**given: Any) -> Any:
            if (value := given.pop(old_name)) not in (None, False):
                if given[name] not in (None, False):
                    raise click.UsageError(f"{old} is the old name of {new}: give {new} alone.")
                say(deprecated(old, new, gone_in=gone_in), err=True)
                given[name] = value
            return function(**given)

        return click.option(old, old_name, hidden=True, **attributes)(command)

    return add


class _TerminalHandler(logging.Handler):
    """Writes where standard error is at that moment (tests and progress bars replace it)."""

    def emit(self, record: logging.LogRecord) -> None:
        prefix = "warning: " if record.levelno == logging.WARNING else ""
        say(prefix + record.getMessage(), err=True)


def say(line: object = "", *, err: bool = False) -> None:
    """One line on standard output, or on standard error."""
    click.echo(plain(line), err=err)


def print_json(value: Any) -> None:
    """One JSON document on standard output; what JSON need not escape and a terminal obeys is escaped too."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    click.echo(re.sub(r"[^\x20-\x7e\n]", lambda found: _in_json(found.group()), text))


def _in_json(character: str) -> str:
    # Such characters stand inside of strings only, where \\uXXXX is the same text for every reader.
    return character if plain(character) == character else json.dumps(character)[1:-1]


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """An aligned table on standard output; plain text when it is piped."""
    from rich.console import Console
    from rich.table import Table

    table = Table(*map(plain, columns), box=None, pad_edge=False, show_header=any(columns))
    for row in rows:
        table.add_row(*(("-" if cell is None else plain(cell)) for cell in row))
    console = Console(soft_wrap=False, markup=False, emoji=False, highlight=False)  # file names are not markup
    if not console.is_terminal:
        console.width = 400  # never wrap or cut a name in a pipe
    console.print(table)


def refuse_written_over(read: Iterable[str | Path | None], written: Iterable[Path | None]) -> None:
    """A usage error where a file that is read would be written over."""
    places = {path.resolve() for path in written if path is not None}
    for path in (path for path in read if path is not None):
        if Path(path).resolve() in places:
            raise click.UsageError(f"{path} is read: what is written needs another name.")


def report(found: Any, as_json: bool, page: Path | None) -> None:
    """Print what a job found, and write its page; standard output holds nothing else: it may be a list of paths."""
    if as_json:
        print_json(found.as_json())
    else:
        for line in found.summary():
            say(line)
    if page is not None:
        say(f"wrote {found.write_page(page)}", err=True)


factory_option = click.option(
    "--factory",
    metavar="STRING",
    help="FAISS index_factory.  [default: the kind there is; else Flat, above 200,000 rows SQfp16]",
)

private_option = click.option(
    "--private", is_flag=True, help="Make the repository that is pushed to private; an existing public one is refused."
)


def evaluation_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add what `clzoo evaluate` and `clzoo compare` share."""
    options = (
        click.option(
            "--data", required=True, metavar="SRC", help="Of train and test, or classes; or train=SRC,test=SRC."
        ),
        click.option("--protocol", "protocols", default="knn,linear", show_default=True, help="Separated by commas."),
        click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Mean over so many."),
        click.option("--title", help="What to call the data.  [default: the folder's name]"),
        click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps."),
        click.option(
            "--set", "settings", multiple=True, metavar="KEY=VALUE", help="E.g. linear_sgd.lr=10, finetune.epochs=5."
        ),
    )
    for option in reversed(options):
        function = option(function)
    return function


def data_of(text: str) -> str | dict[str, str]:
    """The value of `--data`: one source, or train=SRC,test=SRC in either order.

    Raises:
        click.UsageError: one of the two alone.
    """
    parts = dict(re.findall(r"(train|test)=(.+?)(?=,(?:train|test)=|$)", text))
    if parts and set(parts) != {"train", "test"}:
        raise click.UsageError(f"--data {text}: expected one source, or train=SRC,test=SRC.")
    return parts or text
