"""The command `clzoo`: one small file per command, imported when that command is used."""

from __future__ import annotations

import sys
from importlib import import_module

import click

import clzoo
from clzoo.errors import ClzooError
from clzoo.wording import plain, plain_lines

_COMMANDS = {
    "list": "The models of the zoo.",
    "info": "Everything recorded about one model.",
    "verify": "Check a model's hashes and its probe.",
    "cached": "What the local cache holds.",
    "convert": "Turn a foreign checkpoint into a clzoo folder.",
    "push": "Upload a model folder to the Hugging Face Hub.",
    "export": "Write a model as an ONNX file.",
    "embed": "Embed a folder of images, and index it.",
    "store": "Export, merge or compact an embedding store.",
    "search": "Find the nearest images of an indexed folder.",
    "explore": "Look at a collection on a map, in a browser.",
    "curate": "Duplicates, leaks, labels of a collection.",
    "evaluate": "Judge an encoder on labelled images.",
    "compare": "Compare encoders on labelled images.",
    "recipes": "The recipes that ship with clzoo.",
    "pack": "Decode a data set once, for pretraining.",
    "views": "Draw the views of one image that a run sees.",
    "pretrain": "Train an encoder from a recipe.",
    "explain-batch": "What the method of a run sees in a batch.",
    "adapt": "Continue an encoder on own images.",
    "distil": "A small student of a store's vectors.",
    "publish": "Make a hub entry of a finished run.",
    "doctor": "Look for what does not fit together here.",
}


class _Commands(click.Group):
    """Lists commands without importing them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [*_COMMANDS]  # `list` is a module here, once that command was imported

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = import_module(f"clzoo.cli.{cmd_name.replace('-', '_')}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([*_COMMANDS.items()])


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(clzoo.__version__, prog_name="clzoo")
def cli() -> None:
    """A zoo of contrastively pretrained image encoders.

    Exit codes: 0 done, 1 an error of input or data, 2 wrong usage, 130 interrupted.
    """


def main(arguments: list[str] | None = None) -> None:
    """Entry point: turns every outcome into an exit code, and shows a traceback only with --debug."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if debug := "--debug" in arguments:  # anywhere on the line: nobody remembers where a global option goes
        arguments = [argument for argument in arguments if argument != "--debug"]
    try:
        cli.main(args=arguments, prog_name="clzoo", standalone_mode=False)
    except click.ClickException as error:  # wrong usage
        error.message = plain(error.message)  # type: ignore[misc]  # what show() prints, with usage around it
        error.show()
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        sys.exit(130)
    except click.exceptions.Exit as done:
        sys.exit(done.exit_code)
    except Exception as error:
        if debug:
            raise
        if isinstance(error, ClzooError):  # plain by itself, with lines of details
            click.echo(f"error: {error}", err=True)
        else:
            what = f"unexpected {type(error).__name__} (for a traceback add --debug)"
            click.echo(plain_lines(f"error: {what}: {error}"), err=True)
        sys.exit(1)
