"""`clzoo cached`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option


@click.command(name="cached")
@click.option("--rm", "name", metavar="NAME", help="Delete this model from the cache: all revisions, or NAME@REVISION.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(name: str | None, as_json: bool, quiet: bool) -> None:
    """What the local cache holds, with sizes.

    The cache is $CLZOO_CACHE or ~/.cache/clzoo. The published files that models were converted from stay in the
    Hugging Face cache: see `hf cache ls` and `hf cache rm`.
    """
    from clzoo.zoo import cache

    if name is not None:
        freed = cache.remove(name)
        if as_json:
            print_json({"removed": name, "bytes": freed})
        else:
            click.echo(f"removed {name}: {freed / 1e6:,.1f} MB")
        return
    models = cache.cached()
    if as_json:
        print_json([model.to_json() for model in models])
    elif models:
        rows = [[m.folder.name, f"{m.size / 1e6:,.1f} MB", m.provenance.repo, m.folder] for m in models]
        print_table(("name", "size", "from", "folder"), rows)
    else:
        click.echo(f"{cache.root() / cache.MODELS} holds nothing")
