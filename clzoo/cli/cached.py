"""`clzoo cached`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option, say


@click.command(name="cached")
@click.option(
    "--rm", "name", metavar="NAME", help="Delete this model (or one NAME@REVISION-HASH of the list), or all features."
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(name: str | None, as_json: bool, quiet: bool) -> None:
    """What the local cache holds, with sizes.

    The cache is $CLZOO_CACHE or ~/.cache/clzoo. The published files that models were converted from stay in the
    Hugging Face cache: see `hf cache ls` and `hf cache rm`. Features of evaluated data sets lie there too; --rm
    features deletes them.
    """
    from clzoo import cache
    from clzoo.zoo import converted

    if name is not None:
        freed = cache.remove_features() if name == cache.FEATURES else converted.remove(name)
        if as_json:
            print_json({"removed": name, "bytes": freed})
        else:
            say(f"removed {name}: {freed / 1e6:,.1f} MB")
        return
    models = converted.cached()
    features = cache.features_size()
    if as_json:
        print_json([model.to_json() for model in models])
    elif models or features:
        rows = [[m.folder.name, f"{m.size / 1e6:,.1f} MB", m.provenance.repo, m.folder] for m in models]
        if features:
            place = cache.root() / cache.FEATURES
            rows.append([cache.FEATURES, f"{features / 1e6:,.1f} MB", "clzoo evaluate", place])
        print_table(("name", "size", "from", "folder"), rows)
    else:
        say(f"{cache.root()} holds nothing")
