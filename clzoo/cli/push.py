"""`clzoo push`."""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import old_spelling, print_json, private_option, quiet_option, say


@click.command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("repo_id", metavar="OWNER/NAME")
@private_option
@click.option("--revision", metavar="BRANCH", help="An existing branch. [default: main]")
@click.option("--message", metavar="TEXT", help="The commit message.")
@click.option("--create-pr", is_flag=True, help="Propose the commit as a pull request.")
@old_spelling("--accept-licence", "--accept-license", is_flag=True)
@click.option("--accept-license", is_flag=True, help="Push weights whose publisher states no license.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(
    path: Path,
    repo_id: str,
    private: bool,
    revision: str | None,
    message: str | None,
    create_pr: bool,
    accept_license: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Upload the model folder PATH to the Hugging Face Hub in one commit, and print the commit's URL.

    The token is HF_TOKEN, or what `hf auth login` stored.
    """
    from clzoo.zoo.pushing import push

    url = push(
        path,
        repo_id,
        private=private,
        revision=revision,
        commit_message=message,
        create_pr=create_pr,
        accept_license=accept_license,
    )
    if as_json:
        print_json({"repo_id": repo_id, "url": url})
    else:
        say(url)
