"""clzoo store."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import click

from clzoo.cli.common import factory_option, max_pixels_option, print_json, print_table, quiet_option, say, share_option
from clzoo.errors import ClzooError


@click.group("store")
def command() -> None:
    """Look into, export, merge, compact or index an embedding store."""


@command.command("info")
@click.argument("store", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="Print the manifest as JSON.")
@quiet_option
def info(store: Path, as_json: bool, quiet: bool) -> None:
    """Which model made a store, and what it holds."""
    from clzoo.embed import open_store

    manifest = dataclasses.asdict(open_store(store).manifest)
    if as_json:
        print_json(manifest)
    else:
        manifest["segments"] = len(manifest["segments"])
        print_table(("", ""), list(manifest.items()))


@command.command("export")
@click.argument("store", metavar="DIR", type=click.Path(path_type=Path))
@click.option("--format", type=click.Choice(["csv", "parquet", "npz"]), help="Of the file.")
@click.option(
    "--for", "viewer", type=click.Choice(["embedding-atlas", "tensorboard"]), help="With what this viewer reads."
)
@click.option("--out", metavar="FILE", type=click.Path(path_type=Path), help="The file.  [default: DIR.FORMAT]")
@max_pixels_option
@quiet_option
def export(store: Path, format: str | None, viewer: str | None, out: Path | None, quiet: bool) -> None:
    """Write all rows of a store to one CSV, Parquet or NumPy file, as float32.

    --for embedding-atlas adds a map and neighbors to Parquet; --for tensorboard writes a folder for its projector.
    """
    from clzoo.embed import export_store, open_store

    if viewer is None and format is None:
        raise click.UsageError("expected --format csv, parquet or npz, or --for embedding-atlas or tensorboard.")
    if viewer is not None and format not in (None, "parquet" if viewer == "embedding-atlas" else None):
        raise click.UsageError(f"--for {viewer} says the format; leave out --format {format}.")
    opened = open_store(store)
    if viewer is not None:
        from clzoo.explorer.elsewhere import export_atlas, export_projector

        name = store.resolve().name
        if viewer == "embedding-atlas":
            say(f"wrote {export_atlas(opened, out or _by_default(store, 'parquet'))}: {len(opened)} rows")
        else:
            say(f"wrote {export_projector(opened, out or Path(f'{name}-projector'))}: {len(opened)} rows")
        return
    assert format is not None
    written = export_store(opened, out or _by_default(store, format), format)
    say(f"wrote {written}: {len(opened)} rows")


def _by_default(store: Path, format: str) -> Path:
    """Where an export goes unless it is told: DIR.FORMAT, where nothing or an earlier export is."""
    from clzoo.embed.export import is_export

    path = Path(f"{store.resolve().name}.{format}")
    if path.exists() and not is_export(path):
        raise ClzooError(f"{path} is there and is no export of a store. Say where it may go: --out FILE")
    return path


@command.command("compact")
@click.argument("store", metavar="DIR", type=click.Path(path_type=Path))
@quiet_option
def compact(store: Path, quiet: bool) -> None:
    """Rewrite a store to one segment in path order, without the rows of deleted files."""
    from clzoo.embed import compact_store

    compact_store(store)


@command.command("merge")
@click.argument("out", metavar="DIR", type=click.Path(path_type=Path))
@click.argument("shares", metavar="SHARE...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--allow-removals", is_flag=True, help="Even if DIR loses over a tenth of its rows.")
@quiet_option
def merge(out: Path, shares: tuple[Path, ...], allow_removals: bool, quiet: bool) -> None:
    """Join the stores that `clzoo embed --share` made of one source into DIR, row for row as one run makes it.

    All shares must be there and finished; they stay as they are.
    """
    from clzoo.embed import merge_stores

    merged = merge_stores(out, shares, allow_removals=allow_removals)
    if not quiet:
        say(f"{out}: {len(merged)} vectors of {merged.manifest.model}, {merged.manifest.errors} failed")


@command.command("index")
@click.argument("store", metavar="DIR", type=click.Path(path_type=Path))
@factory_option
@share_option("Build part I of N only (1/4 to 4/4), of an inverted file.")
@click.option("--merge", is_flag=True, help="Join the parts, when all are there.")
@quiet_option
def index(store: Path, factory: str | None, share: str | None, merge: bool, quiet: bool) -> None:
    """Build the FAISS index of a store, if there is none or an old one; whole, or in parts and then --merge.

    Parts need less memory, can be built on several machines at once, and are skipped when they are there already.
    """
    if merge and (share or factory):
        raise click.UsageError("--merge goes alone: the parts say which index they are of.")
    if share and not factory:
        raise click.UsageError("--share needs --factory, of an inverted file: --factory IVF4096,SQfp16")
    from clzoo.embed.shares import parse_share
    from clzoo.index import build_part, merge_index, refresh_index

    if share and factory:
        say(f"{build_part(store, parse_share(share), factory=factory)}")
        return
    built = merge_index(store) if merge else refresh_index(store, factory=factory)
    if not quiet:
        recall = built.description["recall_at_10"]
        shown = "" if recall is None else f", recall@10 {recall:.3f}"
        say(f"{store}: {len(built)} vectors, {built.description['factory']}{shown}")


@command.command("copy")
@click.argument("source", metavar="FROM")
@click.argument("target", metavar="TO")
@quiet_option
def copy(source: str, target: str, quiet: bool) -> None:
    """Copy a finished store to remote storage (s3://bucket/store), or from there into a new folder.

    The manifest goes last, so that a remote reader finds one whole generation.
    """
    from clzoo.embed.copying import copy_store

    copy_store(source, target)
