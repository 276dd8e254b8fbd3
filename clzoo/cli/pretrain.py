"""clzoo pretrain RECIPE --data DIR"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import quiet_option


@click.command("pretrain")
@click.argument("recipe")
@click.option(
    "--data", type=click.Path(path_type=Path), help="Folder of class sub-folders, or one with train/ and test/."
)
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override, e.g. schedule.epochs=10.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/<recipe>].")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--max-minutes", type=float, help="Stop with a checkpoint after this time.")
@quiet_option
def command(
    recipe: str,
    data: Path | None,
    overrides: tuple[str, ...],
    out: Path | None,
    device: str,
    max_minutes: float | None,
    quiet: bool,
) -> None:
    """Train an encoder from RECIPE: a shipped name, or a YAML file.

    Run the same command again and an unfinished run goes on where it stopped.
    """
    from clzoo.errors import ClzooError
    from clzoo.pretrain.loop import pretrain
    from clzoo.pretrain.recipe_files import find_recipe, load_recipe

    path = find_recipe(recipe)
    loaded = load_recipe(path, overrides)
    if data is None or not data.is_dir():
        found = "no --data was given" if data is None else f"--data {data} is not a folder"
        raise ClzooError(
            f"{path.name} trains on {loaded.data.title}, but {found}. "
            f"Type: clzoo pretrain {recipe} --data DIR, where DIR/train/<class>/ holds the images."
        )
    out = out or Path("runs") / path.stem
    if pretrain(loaded, data, out, device=device, max_minutes=max_minutes):
        click.echo(f"finished: {out}. Next: clzoo publish {out} NAME --data {data}")
