"""clzoo adapt IMAGES"""

from __future__ import annotations

import logging
from pathlib import Path

import click

from clzoo.cli.common import (
    Minutes,
    Remembering,
    max_pixels_option,
    print_table,
    quiet_option,
    say,
    say_how_to_go_on,
    this_command,
)
from clzoo.wording import clzoo_command


@click.command("adapt", cls=Remembering)
@click.argument("images")
@click.option("--from", "start", metavar="NAME", help="The encoder to start from, as in clzoo.load. [default: bundled]")
@click.option("--method", help="cacr, simclr, reco, ... [default: the start's own if it needs no labels, else simclr]")
@click.option("--minutes", type=Minutes(), help="For all of it, verdict included.")
@click.option("--labels", is_flag=True, help="Judge with the classes of the folders.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder [default: runs/adapt-<images>].")
@click.option("--seeds", default=1, show_default=True, type=click.IntRange(min=1), help="Runs that are judged.")
@click.option("--also-keep", metavar="DIR", help="A labelled set on which nothing should be lost.")
@click.option("--flatten", is_flag=True, help="Draw images from crowded places less often: a long tail, no labels.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@max_pixels_option
@quiet_option
def command(
    images: str,
    start: str | None,
    method: str | None,
    minutes: float | None,
    labels: bool,
    out: Path | None,
    seeds: int,
    also_keep: str | None,
    flatten: bool,
    device: str,
    quiet: bool,
) -> None:
    """Continue an encoder on IMAGES and say whether it helped, judged on images that it did not see.

    Ctrl-C stops with a checkpoint; the same command goes on.
    """
    from clzoo.adaptation import adapt
    from clzoo.adaptation.page import notes_of, table_of
    from clzoo.adaptation.run import place_of
    from clzoo.embed import DEFAULT_MODEL
    from clzoo.publish import publish_command

    try:
        found = adapt(
            images,
            start=start or DEFAULT_MODEL,
            method=method,
            minutes=minutes,
            labels=labels,
            out=out,
            seeds=seeds,
            also_keep=also_keep,
            flatten=flatten,
            device=device,
        )
    except KeyboardInterrupt:
        say_how_to_go_on(place_of(images, out), "state.json")
        raise
    if found.verdict is None:
        usable = f"as far as it came it is a model: {found.folder}. " if found.has_encoder else ""
        logging.getLogger("clzoo").warning("%sto go on, type: %s", usable, this_command())
        raise KeyboardInterrupt  # the exit code: what stands after && would take it for adapted
    print_table(*table_of(found.report))
    for note in notes_of(found.report):
        say(note)
    say(f"Took {found.took}.")
    use = clzoo_command("embed", images, "--model", found.folder)
    say(f"{found.folder / 'verdict.html'} shows the same. To use it: {use}")
    accept = "" if found.verdict.word == "helped" else " --accept-verdict"
    say(f"Next: {publish_command(found.folder, images)}{accept}")
