"""clzoo views RECIPE --sample 1234 --epoch 7 --data DIR --out x.png"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import max_pixels_option, quiet_option, say


@click.command("views")
@click.argument("recipe")
@click.option("--data", required=True, help="What `clzoo pretrain --data` takes.")
@click.option("--sample", type=click.IntRange(min=0), required=True, help="Number of the image in the data set.")
@click.option("--epoch", type=click.IntRange(min=0), default=0, show_default=True, help="Epoch, counted from 0.")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="PNG file to write.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. seed=1.")
@max_pixels_option
@quiet_option
def command(
    recipe: str, data: str, sample: int, epoch: int, out: Path, overrides: tuple[str, ...], quiet: bool
) -> None:
    """Draw every view of one image as a run of RECIPE sees it in an epoch, before normalisation."""
    from clzoo.pretrain.preview import draw_views
    from clzoo.pretrain.recipe_files import find_recipe, load_recipe

    draw_views(load_recipe(find_recipe(recipe), overrides), data, out, sample=sample, epoch=epoch)
    say(str(out))
