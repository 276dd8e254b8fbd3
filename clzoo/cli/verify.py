"""`clzoo verify`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option
from clzoo.errors import ClzooError


@click.command(name="verify")
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(name: str, as_json: bool, quiet: bool) -> None:
    """Check the hashes and the probe of NAME: a zoo name, timm:NAME, hf-hub:ORG/REPO, a folder or a .safetensors file.

    Exits with 1 if something differs, or if no probe is recorded to compare with.
    """
    from clzoo.zoo import verify

    result = verify(name)
    if as_json:
        print_json(result.to_json())
    else:
        print_table(("", ""), result.facts())
    if result.problem:
        raise ClzooError(result.problem)
