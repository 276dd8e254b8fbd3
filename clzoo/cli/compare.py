"""clzoo compare"""

from __future__ import annotations

from pathlib import Path

import click

from clzoo.cli.common import data_of, evaluation_options, max_pixels_option, print_table, quiet_option, say


@click.command("compare")
@click.argument("models", metavar="A B [C...]", nargs=-1, required=True)
@evaluation_options
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), default="comparison", show_default=True)
@max_pixels_option
@quiet_option
def command(
    models: tuple[str, ...],
    data: str,
    protocols: str,
    seeds: int,
    title: str | None,
    device: str,
    settings: tuple[str, ...],
    out: Path,
    quiet: bool,
) -> None:
    """Compare encoders on one page: accuracy by protocol, CKA, shared neighbors, spectra, long-tail curves.

    The page is DIR/compare.html. Features are extracted once for each model, and shared with clzoo evaluate.
    """
    from clzoo.evaluation import compare
    from clzoo.evaluation.report import require_folder

    require_folder(out, "compare.html")
    comparison = compare(models, data_of(data), protocols, seeds=seeds, title=title, settings=settings, device=device)
    folder = comparison.write(out)
    columns, rows = comparison.accuracy_table()
    print_table(columns, rows)
    say(f"{folder / 'compare.html'} shows everything.")
