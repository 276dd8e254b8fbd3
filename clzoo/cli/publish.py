"""clzoo publish RUN NAME"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import max_pixels_option, private_option, quiet_option, say
from clzoo.wording import clzoo_command


@click.command("publish")
@click.argument("run", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.argument("name")
@click.option("--data", help="What the run trained on. With labels and a test split it is evaluated on them.")
@click.option("--protocol", "protocols", help="What to measure with labels, see clzoo evaluate. [default: knn,linear]")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Mean over so many.")
@click.option(
    "--metrics",
    "measured",
    type=click.Path(path_type=Path),
    help="metrics.json of clzoo evaluate, instead of measuring.",
)
@click.option("--title", help="What the card calls the data, e.g. 'CIFAR-10 (JPEG copy)' [default: the recipe's].")
@click.option(
    "--dtype",
    default="fp32",
    show_default=True,
    type=click.Choice(["fp32", "fp16"]),
    help="Of the stored weights; they are rounded before they are measured.",
)
@click.option("--accept-verdict", is_flag=True, help="Publish an adaptation too that was not shown to help.")
@click.option("--overwrite", is_flag=True, help="Replace the entry that lies there, as a whole.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the entry [default: hub/NAME].")
@click.option("--push", "repo_id", metavar="ORG/NAME", help="Push it there; access is checked before it is measured.")
@private_option
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@max_pixels_option
@quiet_option
def command(
    run: Path,
    name: str,
    data: str | None,
    protocols: str | None,
    seeds: int,
    measured: Path | None,
    title: str | None,
    dtype: str,
    accept_verdict: bool,
    overwrite: bool,
    out: Path | None,
    repo_id: str | None,
    private: bool,
    device: str,
    quiet: bool,
) -> None:
    """Make a hub entry NAME of a finished run: weights, recipe, what was measured beside controls, and a card.

    Without labelled --data nothing is measured with labels, and the card says so.
    """
    from clzoo.publish import publish, push_saved
    from clzoo.zoo.pushing import prepare_push

    if private and repo_id is None:
        raise click.UsageError("--private needs --push ORG/NAME.")
    if repo_id is not None:
        prepare_push(repo_id, private=private)
    folder = publish(
        run,
        name,
        data,
        out or Path("hub") / name,
        protocols=protocols,
        seeds=seeds,
        measured=measured,
        device=device,
        title=title,
        dtype=dtype,
        overwrite=overwrite,
        accept_verdict=accept_verdict,
    )
    if repo_id is not None:
        say(push_saved(folder, repo_id))
        return
    say(f"{folder} is ready. Look at {folder / 'README.md'}; then: {clzoo_command('push', folder, f'ORG/{name}')}")
