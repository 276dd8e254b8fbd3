"""clzoo export NAME --to onnx --out FILE"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import max_pixels_option, print_json, quiet_option, say


@click.command("export")
@click.argument("name")
@click.option("--to", "target", default="onnx", show_default=True, type=click.Choice(["onnx"]), help="The format.")
@click.option("--out", required=True, metavar="FILE", type=click.Path(path_type=Path), help="*.onnx")
@click.option("--preprocess", is_flag=True, help="Resize, crop and normalise inside: the graph takes uint8 images.")
@click.option(
    "--dtype", default="fp32", show_default=True, type=click.Choice(["fp32", "fp16"]), help="Of the arithmetic."
)
@click.option("--int8", metavar="SRC", help="Quantise, with ranges measured on these images.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@max_pixels_option
@quiet_option
def command(
    name: str, target: str, out: Path, preprocess: bool, dtype: str, int8: str | None, as_json: bool, quiet: bool
) -> None:
    """Export NAME: a zoo name, timm:NAME, hf-hub:ORG/REPO, a folder, a .safetensors file or a run.

    Ends with a comparison of the written file, run by ONNX Runtime, with torch. If they differ, no file is left and the
    exit code is 1.
    """
    from clzoo.evaluation.subject import find_subject
    from clzoo.export import export_onnx

    encoder = find_subject(name, "cpu").encoder
    exported = export_onnx(encoder, out, preprocess=preprocess, dtype=dtype, int8=int8)
    if as_json:
        print_json(exported.to_json())
    else:
        for line in exported.lines():
            say(line)
