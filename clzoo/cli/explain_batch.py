"""clzoo explain-batch RUN"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import max_pixels_option, output_file, quiet_option, report


@click.command("explain-batch")
@click.argument("run", metavar="RUN", type=click.Path(path_type=Path))
@click.option("--data", metavar="SRC", help="The images of the run, where they have moved.")
@click.option("--queries", default=8, show_default=True, type=click.IntRange(min=1), help="Images to tell of.")
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:N or mps.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", "page", metavar="FILE", type=output_file(), help="Write contact sheets.")
@max_pixels_option
@quiet_option
def command(
    run: Path, data: str | None, queries: int, device: str, as_json: bool, page: Path | None, quiet: bool
) -> None:
    """Show what the method of RUN sees in its next batch: whom each query is pulled to and pushed from, and how much.

    Where the images have labels: how many of the most repelled are of the query's own class.
    """
    from clzoo.pretrain.explaining import explain_batch

    report(explain_batch(run, data, queries=queries, device=device), as_json, page)
