"""`clzoo convert`"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import print_json, quiet_option, say


@click.command(name="convert")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--arch", "architecture", help="timm's name of the architecture, e.g. resnet50; a run's recipe says it.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="Folder to make.")
@click.option("--model-arg", "model_args", multiple=True, metavar="KEY=VALUE", help="For timm, e.g. num_heads=12.")
@click.option("--drop", multiple=True, metavar="NAME", help="A head in the file that may be left behind.")
@click.option("--prefix", metavar="PREFIX", help="Of the encoder's tensors in FILE, where it is not found.")
@click.option("--ema", is_flag=True, help="Take the moving average of the weights, where FILE holds both.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(
    file: Path,
    architecture: str | None,
    out: Path,
    model_args: tuple[str, ...],
    drop: tuple[str, ...],
    prefix: str | None,
    ema: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Turn a checkpoint FILE into a folder that clzoo (and timm) loads: a foreign one, or a run of clzoo pretrain.

    Finds the backbone under the prefixes that contrastive methods publish it with, requires each of its tensors, and
    prints what was kept, renamed and dropped. What torch.compile, DataParallel and Lightning put in front of names is
    looked through. Nothing in FILE is executed.
    """
    from clzoo.pretrain.trained import belongs_to_run, convert_checkpoint
    from clzoo.zoo.convert import assumptions, convert_to_folder, parse_model_args

    if belongs_to_run(file):
        if model_args or drop or prefix or ema:
            raise click.UsageError(
                f"{file} is of a run of clzoo pretrain, whose recipe says all: leave out the options."
            )
        lines = convert_checkpoint(file, out, architecture)
        if as_json:
            print_json({"file": str(file), "report": lines, "out": str(out)})
        for line in [] if as_json else [*lines, f"model:   {out}: clzoo.load({str(out.resolve())!r})"]:
            say(line)
        return
    if architecture is None:
        raise click.UsageError("Missing option '--arch', e.g. --arch resnet50.")
    report, config = convert_to_folder(
        file, architecture, out, model_args=parse_model_args(model_args), drop=drop, prefix=prefix, ema=ema
    )
    if as_json:
        print_json({**report.to_json(), "out": str(out), "weights_sha256": config.weights_sha256})
        return
    for line in [*report.lines(), *assumptions(config), f"model:   {out}: clzoo.load({str(out.resolve())!r})"]:
        say(line)
