"""`clzoo cached`"""

from __future__ import annotations

import click

from clzoo.cli.common import print_json, print_table, quiet_option, say


@click.command(name="cached")
@click.option(
    "--rm",
    "name",
    metavar="NAME",
    help="Delete this model, one NAME@REVISION-HASH of the list, or all of: features, onnx, shards.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(name: str | None, as_json: bool, quiet: bool) -> None:
    """What the local cache holds, with sizes.

    The cache is $CLZOO_CACHE, else `clzoo` in $XDG_CACHE_HOME or ~/.cache. The published files that models were
    converted from stay in the Hugging Face cache: see `hf cache ls` and `hf cache rm`. What else was computed once
    lies there too: features of evaluated data sets, graphs of the backend onnx, lists of the members of shards behind
    URLs. --rm deletes a part by its name; it is made again where it is needed.
    """
    from clzoo import cache
    from clzoo.zoo import converted

    if name is not None:
        freed = cache.remove_all(name) if name in cache.REMOVABLE else converted.remove(name)
        if as_json:
            print_json({"removed": name, "bytes": freed})
        else:
            say(f"removed {name}: {freed / 1e6:,.1f} MB")
        return
    models = converted.cached()
    parts = {part: size for part in cache.REMOVABLE if (size := cache.size_of(part))}
    if as_json:
        others = [{"name": part, "folder": str(cache.root() / part), "bytes": size} for part, size in parts.items()]
        print_json([*(model.to_json() for model in models), *others])
    elif models or parts:
        rows = [[m.folder.name, f"{m.size / 1e6:,.1f} MB", m.provenance.repo, m.folder] for m in models]
        for part, size in parts.items():
            rows.append([part, f"{size / 1e6:,.1f} MB", cache.REMOVABLE[part], cache.root() / part])
        print_table(("name", "size", "from", "folder"), rows)
    else:
        say(f"{cache.root()} holds nothing")
