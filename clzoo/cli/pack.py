"""clzoo pack SRC --size 256 --out DIR"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clzoo.cli.common import max_pixels_option, print_json, quiet_option, say
from clzoo.wording import clzoo_command


@click.command("pack")
@click.argument("source", metavar="SRC")
@click.option("--size", default=256, show_default=True, type=click.IntRange(min=1), help="Side in pixels.")
@click.option("--out", required=True, metavar="DIR", type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@max_pixels_option
@quiet_option
def command(source: str, size: int, out: Path, as_json: bool, quiet: bool) -> None:
    """Decode the images of SRC once, so that pretraining need not: a memory-mapped uint8 array.

    SRC is what clzoo pretrain takes (docs/data.md): a folder, shards, a list, hf-hub:ORG/NAME, a URL. Each split
    becomes a sub-folder of DIR. Images that cannot be decoded are left out, and named in DIR/pack.json.
    """
    from clzoo.data.packing import pack

    packs = pack(source, size, out)
    if as_json:
        print_json(packs)
    elif not quiet:
        for made in packs:
            say(_line(made))
        say(f"next: {clzoo_command('pretrain', 'RECIPE', '--data', out)}")


def _line(made: dict[str, Any]) -> str:
    gib = made["images"] * made["size"] ** 2 * 3 / 2**30
    left_out = f"; {len(made['skipped'])} left out, see {made['folder']}/pack.json" if made["skipped"] else ""
    return f"{made['folder']}: {made['images']} images of {made['size']} px, {gib:.2f} GiB{left_out}"
