"""`clzoo list`"""

from __future__ import annotations

from typing import Any

import click

from clzoo.cli.common import print_json, print_table, quiet_option, say
from clzoo.errors import ClzooError


@click.command(name="list")
@click.argument("pattern", default="*")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(pattern: str, as_json: bool, quiet: bool) -> None:
    """The models of the zoo, or those whose name holds PATTERN ("vit") or matches it ("*-vit_*")."""
    from clzoo.zoo.entries import closest, entry, list_models, row

    rows = [row(entry(name)) for name in list_models(pattern)]
    if not rows:
        raise ClzooError(f"no model's name holds or matches {pattern!r}. {closest(pattern)}Type: clzoo list")
    if as_json:
        print_json(rows)
    else:
        print_table(("name", "params", "px", "dim", "linear/k-NN", "status"), [_shown(line) for line in rows])
        say(
            "Top-1 in percent by linear:v1 and knn:v1, on what `clzoo info NAME` says. Where from, and licenses: --json"
        )


def _shown(line: dict[str, Any]) -> list[object]:
    count = line["parameters"]
    size = "-" if count is None else f"{count / 1e6:.1f}M" if count >= 1e6 else f"{count / 1e3:.0f}k"
    accuracies = " / ".join("-" if line[key] is None else f"{line[key]:.1f}" for key in ("linear", "knn"))
    return [line["name"], size, line["input"], line["dim"], accuracies, line["status"].removesuffix("-only")]
