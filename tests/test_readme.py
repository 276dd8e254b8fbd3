"""The README's model table says what the hub entries say. `python tests/test_readme.py` prints the table."""

from pathlib import Path

from clzoo.assets import HUB
from clzoo.files import read_json
from clzoo.zoo.entries import entries, status

README = Path(__file__).resolve().parent.parent / "README.md"


def model_table() -> str:
    lines = [
        "| name | backbone | source | license | published (linear / k-NN) | measured (linear / k-NN) | proof |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for config in entries():
        where = {
            "bundled": "trained here, bundled",
            "hub": f"[{config.source.repo}](https://huggingface.co/{config.source.repo})" if config.source else "",
            "recipe-only": "recipe only",
        }[status(config)]
        published = " / ".join(
            f"{config.published[key]:.1f}" if key in config.published else "-" for key in ("linear", "knn")
        )
        published = published if config.published else "-"
        results = read_json(HUB / config.name / "metrics.json")["results"]
        own = [row for row in results if row["of"] == "this model" and row["metric"] == "top-1"]
        measured = [
            " / ".join(
                next((f"{r['value']:.1f}" for r in own if r["dataset"] == data and r["protocol"].startswith(name)), "-")
                for name in ("linear:v1", "knn:v1")
            )
            + f" ({data})"
            for data in dict.fromkeys(row["dataset"] for row in own)
        ]
        proof = (
            "recorded"
            if config.probe
            else "-"
            if status(config) == "recipe-only"
            else "not verified on the published file"
        )
        cells = (
            f"`{config.name}`",
            config.backbone,
            where,
            config.license,
            published,
            ", ".join(measured) or "-",
            proof,
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def test_the_readmes_model_table_is_that_of_the_entries():
    assert model_table() in README.read_text(encoding="utf-8"), "paste what `python tests/test_readme.py` prints"


if __name__ == "__main__":
    print(model_table())
