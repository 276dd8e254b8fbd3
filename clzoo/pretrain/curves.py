"""The curves of a run as one picture."""

from __future__ import annotations

from pathlib import Path

from clzoo.files import atomic_path, parse_json

_PANELS = (
    "loss",
    "learning_rate",
    "alignment",
    "uniformity",
    "effective_rank",
    "cone_q_q",
    "cone_k_k",
    "cone_q_queue",
    "cone_k_queue",
    "repelled_similarity",
    "false_negatives",
    "attracted_purity",
    "knn",
    "images_per_second",
    "data_wait",
)

_FEW = 30  # points up to which each is marked; one alone makes no line


def draw_curves(folder: Path) -> Path:
    """Read `folder/log.jsonl` and draw what it holds against the step, into `folder/curves.png`.

    Raises:
        ClzooError: a line of the log is damaged.
    """
    from matplotlib.figure import Figure

    log = folder / "log.jsonl"
    lines = [
        parse_json(line, f"line {number} of {log}", "Take it out and type the same command again.")
        for number, line in enumerate(log.read_bytes().splitlines(), start=1)
    ]
    names = [name for name in _PANELS if any(name in line for line in lines)]
    columns = 2
    rows = max(1, -(-len(names) // columns))
    figure = Figure(figsize=(5 * columns, 2.4 * rows), layout="constrained")
    for position, name in enumerate(names, start=1):
        # By step, the later line for one that was done again after a kill.
        points = sorted({line["step"]: line[name] for line in lines if name in line}.items())
        panel = figure.add_subplot(rows, columns, position)
        panel.plot(
            [step for step, _ in points],
            [value for _, value in points],
            linewidth=1,
            marker="." if len(points) < _FEW else None,
        )
        panel.set_title(name.replace("_", " "), fontsize=9)
        panel.set_xlabel("step", fontsize=8)
        panel.grid(alpha=0.3)
    with atomic_path(folder / "curves.png") as temporary:
        figure.savefig(temporary, dpi=120, format="png")
    return folder / "curves.png"
