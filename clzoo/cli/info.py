"""`clzoo info`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option
from clzoo.config import HUB_PREFIX, TIMM_PREFIX


@click.command(name="info")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON: the model's config.json and its status.")
@quiet_option
def command(name: str, as_json: bool, quiet: bool) -> None:
    """Everything recorded about one model: a zoo name, a model folder or run on this machine, hf-hub:ORG/NAME or
    timm:NAME, of which the config alone is fetched."""
    from clzoo.zoo import entries

    status: str
    if name.startswith((HUB_PREFIX, TIMM_PREFIX)):
        from clzoo.zoo import published

        (config, status), folder = published.described(name), None
    else:
        config, status, folder = entries.described(name)
    if as_json:
        print_json({**config.to_json(), "status": status})
    else:
        print_table(("", ""), entries.facts(config, status, folder))
