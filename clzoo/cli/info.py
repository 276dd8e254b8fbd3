"""`clzoo info`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option


@click.command(name="info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the model's config.json and its status.")
@quiet_option
def command(name: str, as_json: bool, quiet: bool) -> None:
    """Everything recorded about one model: a zoo name, or a model folder or run on this machine."""
    from clzoo.zoo.entries import described, facts

    config, status = described(name)
    if as_json:
        print_json({**config.to_json(), "status": status})
    else:
        print_table(("", ""), facts(config, status))
