"""clzoo evaluate"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from clzoo.cli.common import data_of, evaluation_options, max_pixels_option, print_json, print_table, quiet_option, say


@click.command("evaluate")
@click.argument("model", metavar="NAME_OR_RUN")
@evaluation_options
@click.option(
    "--taxonomy", metavar="FILE", help="CSV class,parent for relations.  [default: one that fits the classes]"
)
@click.option("--controls", is_flag=True, help="Also measure the untrained network, and the raw pixels.")
@click.option("--leaks", metavar="CERT", help="Of clzoo curate leaks: also measure without the leaked test images.")
@click.option("--out", metavar="DIR", type=click.Path(path_type=Path), help="The report.  [default: NAME-evaluation]")
@click.option("--json", "json_out", metavar="FILE", help="Write metrics.json there too; - prints it.")
@max_pixels_option
@quiet_option
def command(
    model: str,
    data: str,
    protocols: str,
    seeds: int,
    title: str | None,
    device: str,
    settings: tuple[str, ...],
    taxonomy: str | None,
    controls: bool,
    leaks: str | None,
    out: Path | None,
    json_out: str | None,
    quiet: bool,
) -> None:
    """Judge NAME_OR_RUN, a model of the zoo, a folder, or a run of clzoo pretrain, on labelled images.

    Protocols: knn, knn:instdisc, linear, linear:sgd, lowshot, transfer, imbalanced, collapse, relations, finetune; what
    each of them does is in docs/evaluation.md. Features are extracted once and cached. The numbers, with their
    protocols' ids, go to DIR/metrics.json, the plots and all details to DIR/report.html.
    """
    from clzoo.evaluation import evaluate
    from clzoo.evaluation.report import require_folder
    from clzoo.files import as_json, output_path
    from clzoo.metrics import headlines

    out = out or Path(f"{Path(model).name}-evaluation")
    require_folder(out, "report.html")
    evaluation = evaluate(
        model,
        data_of(data),
        protocols,
        seeds=seeds,
        title=title,
        taxonomy=taxonomy,
        settings=settings,
        controls=controls,
        leaks=leaks,
        device=device,
    )
    folder = evaluation.write(out)
    if json_out == "-":
        print_json(evaluation.metrics)
        return
    if json_out is not None:
        with output_path(Path(json_out)) as temporary:
            temporary.write_text(as_json(evaluation.metrics), encoding="utf-8")
    shown = headlines(evaluation.results)
    rows = [
        [r["of"], r["protocol"], r["split"], _count(r), r["metric"], f"{r['value']:.2f}", _spread(r)] for r in shown
    ]
    print_table(("features of", "protocol", "split", "images", "metric", "value", ""), rows)
    say(f"{folder / 'report.html'} shows everything.")


def _count(row: dict[str, Any]) -> str:
    return f"{row['images']:,}" if "images" in row else "-"


def _spread(row: dict[str, object]) -> str:
    return f"± {row['std']:.2f}" if "std" in row else ""
