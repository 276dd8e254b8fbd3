"""clzoo embed."""

from __future__ import annotations

import warnings
from typing import Any

import click

from clzoo.cli.common import factory_option, max_pixels_option, print_json, quiet_option, say, share_option
from clzoo.embed import DEFAULT_MODEL
from clzoo.errors import ClzooError


@click.command("embed")
@click.argument("source", metavar="SRC")
@click.option(
    "--model", default=DEFAULT_MODEL, show_default=True, help="Zoo name, timm:NAME, hf-hub:ORG/REPO, folder or file."
)
@click.option("--size", type=click.IntRange(min=1), metavar="PX", help="Input side.  [default: the model's own]")
@click.option("--out", metavar="DIR", help="The store.  [default: SRC-embeddings]")
@click.option("--index", type=click.Choice(["faiss"]), help="Index the store too, so that it can be searched.")
@factory_option
@click.option("--batch-size", type=click.IntRange(min=1), help="Images in one forward pass.  [default: by device]")
@click.option("--workers", type=click.IntRange(min=1), help="Threads.  [default: one per core]")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option(
    "--dtype",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "fp32", "bf16", "fp16"]),
    help="To compute.",
)
@click.option("--store-dtype", default="fp16", show_default=True, type=click.Choice(["fp16", "fp32"]), help="On disk.")
@click.option("--normalize/--no-normalize", default=True, show_default=True, help="Divide by the L2 norm.")
@click.option(
    "--labels/--no-labels", default=None, help="Keep the first sub-folder as label.  [default: as the store has it]"
)
@share_option("Embed share I of N, into DIR-shard-I-of-N; see clzoo store merge.")
@click.option("--engine", default="local", show_default=True, type=click.Choice(["local", "ray"]), help="Who computes.")
@click.option(
    "--backend",
    default="auto",
    show_default=True,
    type=click.Choice(["torch", "onnx", "auto"]),
    help="What runs the network; auto: as the store has it, else the fastest that gives the same vectors here.",
)
@click.option(
    "--decode",
    default="cpu",
    show_default=True,
    type=click.Choice(["cpu", "gpu"]),
    help="JPEG files; gpu is nvJPEG, whose pixels differ a little.",
)
@click.option(
    "--allow-removals", is_flag=True, help="Drop the rows of deleted files even if they are over a tenth of the store."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if an image could not be embedded.")
@click.option("--json", "as_json", is_flag=True, help="Print the counts as JSON.")
@max_pixels_option
@quiet_option
def command(
    source: str,
    model: str,
    out: str | None,
    index: str | None,
    factory: str | None,
    share: str | None,
    strict: bool,
    as_json: bool,
    quiet: bool,
    **options: Any,
) -> None:
    """Embed the images of SRC: a folder (with its sub-folders), a list of paths (text, CSV, Parquet), a .tar, .zip or
    .parquet file, a pack, hf-hub:ORG/NAME, or a URL such as s3://bucket/prefix. #split=NAME and #column=NAME at its
    end choose of a data set or a table.

    Run again, it embeds only what is new or changed, drops what was deleted, and continues after an interruption. Files
    that cannot be decoded or reached are listed with their reasons in DIR/errors.parquet; what cannot be reached keeps
    its rows.

    On several GPUs: torchrun --nproc-per-node=N -m clzoo embed SRC; the store is the same.
    """
    if factory is not None and index is None:
        raise click.UsageError("--factory needs --index faiss.")
    if share is not None and index is not None:
        raise click.UsageError(
            "--index is for the whole: merge the shares (clzoo store merge DIR DIR-shard-*), then --index."
        )
    if index is not None:
        from clzoo.index.choosing import has_faiss

        if not has_faiss():
            raise ClzooError(
                "--index needs faiss, which is not installed; nothing was embedded. Type: pip install faiss-cpu, or "
                "leave out --index: up to 100,000 images are searched exactly without it."
            )
    from clzoo.embed import embed_folder
    from clzoo.embed.shares import is_first_process, parse_share

    warnings.filterwarnings("ignore", module="PIL")  # of odd metadata; what cannot be decoded is reported by us
    part = None if share is None else parse_share(share)
    summary = embed_folder(source, model, out, share=part, progress=not quiet, **options)
    if not is_first_process():
        return
    counts = summary.to_json()
    if index is not None:
        from clzoo.index import refresh_index

        counts["index"] = refresh_index(summary.store, factory=factory).description
    if as_json:
        print_json(counts)
    elif not quiet:
        for line in summary.lines():
            say(line)
    if strict:
        summary.require_all()
