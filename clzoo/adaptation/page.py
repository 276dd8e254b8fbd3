"""A verdict in lines and tables: for the terminal, for the page, for the card."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

from clzoo.files import write_text
from clzoo.page import render

UNEVEN = 10
"""Times as many images in crowded places, from which `--flatten` is offered (our choice, not measured)."""


def notes_of(report: dict[str, Any]) -> list[str]:
    """What has to be said beside the numbers, a sentence each."""
    found = [f"Verdict: {report['sentence']}."]
    if report["because"]:
        found.append(f"Why not more: {'; '.join(report['because'])}.")
    if not report["shown_to_predict"]:
        found.append(
            "None of these measures was shown to predict accuracy: they say how features changed, not whether "
            "that helps. Labels give a verdict: --labels, with one folder a class."
        )
    elif not report["labels"]:
        found.append("Measured without labels, by what predicted accuracy in a study (docs/adapt.md).")
    if report.get("no_batchnorm"):
        found.append("The control of BatchNorm statistics alone does not apply: the network has no BatchNorm.")
    if (elsewhere := report["elsewhere"]) is not None:
        gain = elsewhere["gain"]
        found.append(
            f"On {elsewhere['title']}: {elsewhere['verdict']} ({gain['value']:+.1f} [{gain['low']:.1f}, "
            f"{gain['high']:.1f}] {elsewhere['measure']})."
        )
        if elsewhere.get("trained_on"):
            found.append(
                f"Limit: {elsewhere['trained_on']} of the {elsewhere['images']} images that were judged there were "
                "trained on: they tell nothing of what was lost."
            )
    if report["unevenness"] >= UNEVEN and not report["flatten"]:
        found.append(
            f"By the start encoder crowded places hold {report['unevenness']:g} times as many images as empty ones. "
            "--flatten draws them less often; where that was measured it did not help (docs/adapt.md)."
        )
    found += [f"Limit: {limit}." for limit in report["limits"]]
    if len(report["weights_sha256"]) == 1:
        found.append("One seed: the interval knows nothing of other seeds (--seeds 3).")
    return found


def table_of(report: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Headings and rows: a measure a row, the encoders beside each other, and the gain with its interval."""
    measures = report["measures"]
    encoders = list(next(iter(measures.values())))
    rows = []
    for name, values in measures.items():
        gain = report["gains"].get(name)
        cells = [_spread(values[of]) for of in encoders]
        factor = 1 if report["labels"] else 0.01  # outcomes without labels are no percentages
        between = "-" if gain is None else "{:+.3g} [{:.3g}, {:.3g}]".format(
            *(factor * gain[key] for key in ("value", "low", "high"))
        )  # fmt: skip
        rows.append([name, *cells, between])
    return ["measure", *encoders, "gain"], rows


def write_page(path: Path, report: dict[str, Any]) -> None:
    """verdict.html: one file, no script."""
    columns, rows = table_of(report)
    facts = [
        f"from {report['from']}",
        f"{report['images']['trained_on']:,} images trained on",
        f"{report['images']['held_out']:,} held out",
        report["rule"],
    ]
    title = f"{report['verdict']}: {report['from']} on {report['images']['title']}"
    tables = [{"columns": columns, "rows": rows}]
    text = render("curation.html", title=title, facts=facts, notes=notes_of(report), tables=tables, sections=[])
    write_text(path, text)


def _spread(values: list[float]) -> str:
    mean = statistics.mean(values)
    return f"{mean:.4g}" + (f" ± {statistics.stdev(values):.2g}" if len(values) > 1 else "")
