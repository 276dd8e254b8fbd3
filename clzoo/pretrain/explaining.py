"""What a method saw in a batch of its run: of each query whom it pulls near and whom it pushes off, and how much.

The weights are those that the losses note while they compute (`clzoo.losses.seen`); here they get names, pictures and,
where there are labels, a judgement: who of the most repelled is of the query's own class.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

import torch

from clzoo.data.training import TrainingSet
from clzoo.device import resolve_device
from clzoo.errors import ClzooError
from clzoo.losses.seen import Term, View, watching
from clzoo.methods import Batch
from clzoo.pretrain.build import build_method
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.explanation import TOP, Explanation, Judgement, Met, Panel, Query
from clzoo.pretrain.feed import Steps, drawn_by, feed, images_of, progress, samples_of_queue, samples_of_step
from clzoo.pretrain.loop import autocast
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.run_folder import is_gone, read_source, require_same_data
from clzoo.pretrain.trained import without_checkpoint

QUERIES = 8


def explain_batch(
    run: str | Path, data: str | Path | None = None, *, queries: int = QUERIES, device: str = "auto"
) -> Explanation:
    """Let the method of a run see the batch that comes next, and tell what it did to its pairs. Nothing is changed.

    The batch is the one that the run would train on after its newest checkpoint; of a finished run that of one more
    epoch. Views, queue, momentum encoder and BatchNorm are as in that step.

    Args:
        run: its folder.
        data: where the images are now; None: where they were when the run was last begun or continued.
        queries: how many images of the batch are told of, from its first.

    Raises:
        ClzooError: no checkpoint, images that are not there or are others, or a loss that notes nothing.
    """
    run = Path(run)
    if queries < 1:
        raise ClzooError(f"queries must be at least 1, found {queries}.")
    if not (run / "recipe.yaml").is_file():
        raise ClzooError(f"{run} is no run folder. Name one that clzoo pretrain wrote.")
    recipe, state, target = load_recipe(run / "recipe.yaml"), load_checkpoint(run), resolve_device(device)
    if state is None:
        raise without_checkpoint(run)
    source = data if data is not None else read_source(run)
    if source is None:
        raise ClzooError(f"{run} does not record where its images are. Say it: --data DIR")
    if data is None and is_gone(str(source)):
        raise ClzooError(f"the images of {run} are no longer in {source}. Say where they are now: --data DIR")
    images = drawn_by(images_of(recipe, source), state)
    require_same_data(run, images.fingerprint(), "Name those images with --data.")
    method = build_method(recipe, images.class_count).to(target)
    method.load_state_dict(state["method"])
    steps, step = Steps.of(recipe, images), int(state["step"])
    batch = _batch_of(images, recipe, steps, step, target)
    queue = getattr(method, "queue", None)
    pushed = torch.empty(0, dtype=torch.long)
    if queue is not None:
        pushed = samples_of_queue(images, recipe, steps, step, int(queue.pointer), len(queue.entries))
    pointer = 0 if queue is None else int(queue.pointer)
    with torch.no_grad(), autocast(target, recipe.precision), watching() as seen:
        loss = float(method(batch))
    terms = [_on_cpu(term) for term in seen.terms()]
    if not terms:
        raise ClzooError(
            f"the loss of {recipe.method.name} notes no weights. Let it note them where it computes them: "
            "docs/add_a_method.md."
        )
    samples = samples_of_step(images, recipe, steps, step)
    table = _Columns(images, samples, pushed, pointer, steps.batch_size)
    told = [_told(table, terms, place) for place in range(min(queries, len(samples)))]
    return Explanation(run, recipe, step, steps.total, loss, told, _judged(table, terms), images, batch)


def _batch_of(images: TrainingSet, recipe: Recipe, steps: Steps, step: int, target: torch.device) -> Batch:
    longer = dataclasses.replace(steps, total=max(steps.total, step + 1))
    batch = next(feed(images, recipe, longer, step, target))
    return dataclasses.replace(batch, progress=progress(recipe, steps, min(step, steps.total - 1)))


def _on_cpu(term: Term) -> Term:
    beside = None if term.beside is None else (term.beside[0], term.beside[1].float().cpu())
    return dataclasses.replace(term, weights=term.weights.float().cpu(), beside=beside)


class _Columns:
    """Which samples the columns of a term are, and how they are called."""

    def __init__(
        self, images: TrainingSet, samples: torch.Tensor, pushed: torch.Tensor, pointer: int, batch_size: int
    ) -> None:
        self.images, self.samples, self.pushed = images, samples, pushed
        self._pointer, self._batch_size = pointer, batch_size

    def of(self, term: Term, place: int) -> list[tuple[int, int | None, View | None, str]]:
        """Of each column for the query at a place of the batch: sample (-1 if not known), place, view, words."""
        found: list[tuple[int, int | None, View | None, str]] = []
        for kind in term.columns:
            if kind == "own":
                found += [(int(self.samples[place]), place, view, _called(view)) for view in term.keys]
            elif kind == "images":
                for view in term.keys:
                    words = _called(view)
                    found += [(int(sample), other, view, words) for other, sample in enumerate(self.samples)]
            else:
                found += [(int(sample), None, None, self._age(entry)) for entry, sample in enumerate(self.pushed)]
        return found

    def samples_of(self, term: Term) -> torch.Tensor:
        """(C,) samples; -1 if not known, -2 of the query's own image."""
        parts = {
            "own": torch.full((len(term.keys),), -2),
            "images": self.samples.repeat(len(term.keys)),
            "queue": self.pushed,
        }
        return torch.cat([parts[kind] for kind in term.columns])

    def _age(self, entry: int) -> str:
        if self.pushed[entry] < 0:
            return "random start"
        count = len(self.pushed)
        ago = (count - 1 - (entry - self._pointer) % count) // self._batch_size + 1
        return f"{ago} step{'s' * (ago > 1)} ago"

    def name(self, sample: int) -> str:
        return self.images.images.name(int(self.images.rows[sample])) if sample >= 0 else ""

    def label(self, sample: int) -> str | None:
        labels = self.images.labels
        return None if labels is None or sample < 0 else self.images.classes[labels[sample]]


def _called(view: View) -> str:
    return f"view {view + 1}" if isinstance(view, int) else "mixed"


def _loss_of(term: Term, query: View) -> str:
    return term.loss if isinstance(query, int) else f"{term.loss}, mixed"


def _first_queries(terms: Sequence[Term]) -> dict[str, int]:
    """The view by which each loss is shown: the first that queries."""
    views: dict[str, list[int]] = defaultdict(list)
    for term in terms:
        views[term.loss] += [query for query in term.queries if isinstance(query, int)]
    return {loss: min(found) for loss, found in views.items() if found}


def _told(table: _Columns, terms: Sequence[Term], place: int) -> Query:
    """What the query at a place of the batch met."""
    first = _first_queries(terms)
    count = len(table.samples)
    parts: dict[tuple[str, str, int], list[tuple[Term, int]]] = defaultdict(list)
    met_before: dict[tuple[object, ...], int] = defaultdict(int)
    views: dict[str, View] = {}
    gate = None
    for term in terms:
        for number, view in enumerate(term.queries):
            if isinstance(view, int) and view != first[term.loss]:
                continue
            row = number * count + place
            if term.role == "gate":
                gate = term.weights[row] if gate is None else gate
                continue
            loss = _loss_of(term, view)
            same = (loss, term.role, term.columns, *(key if isinstance(key, int) else id(key) for key in term.keys))
            parts[loss, term.role, met_before[same]].append((term, row))
            views[loss] = view
            met_before[same] += 1
    sample = int(table.samples[place])
    panels = [
        _panel(table, f"{loss} ({again + 1})" if again else loss, role, views[loss], found, place)
        for (loss, role, again), found in parts.items()
    ]
    return Query(sample, place, table.name(sample), table.label(sample), min(first.values()), panels, gate)


def _panel(table: _Columns, loss: str, role: str, view: View, parts: Sequence[tuple[Term, int]], place: int) -> Panel:
    weights = torch.cat([term.weights[row] for term, row in parts])
    beside = [term.beside[1][row] if term.beside else torch.full_like(term.weights[row], -1) for term, row in parts]
    numbers, total = torch.cat(beside), float(weights.clamp(min=0).sum())
    columns = [column for term, _ in parts for column in table.of(term, place)]
    name = parts[0][0].beside[0] if parts[0][0].beside else None
    own = table.label(int(table.samples[place]))
    met = []
    for best in weights.argsort(descending=True, stable=True)[:TOP].tolist():
        if weights[best] <= 0:
            break
        sample, other, key, words = columns[best]
        label = table.label(sample)
        met.append(
            Met(
                sample=sample if sample >= 0 else None,
                place=other,
                name=table.name(sample),
                label=label,
                where=words,
                view=key,
                weight=float(weights[best]),
                share=float(weights[best]) / total,
                beside=None if name is None else float(numbers[best]),
                is_same_class=None if label is None else label == own,
            )
        )
    return Panel(loss, role, view, parts[0][0].meaning, name, total, met)


def _judged(table: _Columns, terms: Sequence[Term]) -> list[Judgement]:
    """By labels, of all queries; nothing where there are none, or where nobody but the query's own image is met."""
    if table.images.labels is None:
        return []
    classes = torch.from_numpy(table.images.labels)
    sums: dict[tuple[str, str], torch.Tensor] = defaultdict(lambda: torch.zeros(6, dtype=torch.float64))
    for term in terms:
        if term.role not in ("attraction", "repulsion"):
            continue
        columns = table.samples_of(term)
        own = table.samples.repeat(len(term.queries))[:, None]  # (R, 1)
        counts = (columns >= 0) & (columns != own) & (term.weights > 0)  # (R, C)
        if not counts.any():
            continue
        same = counts & (classes[columns.clamp(min=0)] == classes[own])
        weights = term.weights.double() * counts
        top = weights.topk(min(TOP, weights.shape[1]), dim=1).indices
        shares = (same.gather(1, top), counts.gather(1, top), same, counts, weights * same, weights)
        sums[_loss_of(term, term.queries[0]), term.role] += torch.stack([share.sum().double() for share in shares])
    return [
        Judgement(loss, role, *(float(found[i] / found[i + 1]) for i in (0, 2, 4)))
        for (loss, role), found in sums.items()
    ]
