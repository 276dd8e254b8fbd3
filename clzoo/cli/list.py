"""`clzoo list`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option


@click.command(name="list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(pattern: str, as_json: bool, quiet: bool) -> None:
    """The models of the zoo, or those whose name matches PATTERN ("*vit*")."""
    from clzoo.zoo.entries import entry, list_models, row

    rows = [row(entry(name)) for name in list_models(pattern)]
    if as_json:
        print_json(rows)
    else:
        columns = ("name", "method", "backbone", "data", "dim", "status", "source", "licence")
        print_table(columns, [[line[column] for column in columns] for line in rows])
