"""clzoo distil STORE"""

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


@click.command("distil", cls=Remembering)
@click.argument("store", type=click.Path(path_type=Path))
@click.option("--student", default="resnet10_w32", show_default=True, help="A preset, or an architecture of timm.")
@click.option("--minutes", type=Minutes(), help="For all of it, verdict and ONNX file included.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder [default: runs/distil-<student>-<store>].")
@click.option("--images", metavar="PLACE", help="Where the images of the store lie now, if they have moved.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@max_pixels_option
@quiet_option
def command(
    store: Path, student: str, minutes: float | None, out: Path | None, images: str | None, device: str, quiet: bool
) -> None:
    """Train a small network on the vectors of STORE, without running their model again; ends with an ONNX file.

    It is judged on images that were held out, beside the teacher and beside the same network trained without it. Labels
    come from the store: clzoo embed IMAGES --labels. Ctrl-C stops with a checkpoint; the same command goes on.
    """
    from clzoo.adaptation.distillation import distil, place_of

    try:
        found = distil(store, student=student, minutes=minutes, out=out, images=images, device=device)
    except KeyboardInterrupt:
        say_how_to_go_on(place_of(store, student, out), "config.json")
        raise
    if found.verdict is None:
        said = "as far as it came the student is a model: %s. To go on, type: %s"
        logging.getLogger("clzoo").warning(said, found.folder, this_command())
        raise KeyboardInterrupt  # the exit code: what stands after && would take it for distilled
    for measure, sides in found.report["measures"].items():
        print_table(["held out", measure], [[of, f"{values[0]:.1f}"] for of, values in sides.items()])
    say(f"Did the teacher help? {found.verdict}.")
    if found.verdict.because:
        say(f"Why not more: {'; '.join(found.verdict.because)}.")
    if found.behind_teacher is not None:
        say(f"Student minus teacher: {found.behind_teacher} k-NN.")
    for limit in found.report["limits"]:
        say(f"Limit: {limit}.")
    say(f"Took {found.took}.")
    info = clzoo_command("info", found.folder)
    say(f"{found.folder} is a model, and {found.folder / 'model.onnx'} takes images. Next: {info}")
