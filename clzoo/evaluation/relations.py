"""Which classes an encoder, or Hydra's gates, hold to be related, and how far that agrees with a taxonomy.

A class is a vector: the mean of its images' L2-normalised features (any encoder), or its gate g(c, c) (Hydra). Two
classes are as similar as the cosine of their vectors after the mean over classes is subtracted.
"""

from __future__ import annotations

import logging
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform
from scipy.stats import spearmanr

from clzoo.data.classes import places_by_name
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.results import Outcome, Result
from clzoo.evaluation.taxonomy import ancestors, find_taxonomy, read_taxonomy
from clzoo.evaluation.ties import chance_of_k_highest
from clzoo.methods.hydra import FeatureFilter, gate_vectors

NEIGHBORS = 5
CONTROL_DRAWS = 10
"""How often each control is drawn, for every seed."""

_ROWS = 8192
_EQUAL = 1e-6  # relative: vectors whose distance from the mean is below float32's resolution do not differ

_NO_SCORES: dict[str, float | None] = {"spearman": None, "purity_at_5": None}

log = logging.getLogger("clzoo")


@dataclass(frozen=True, eq=False)
class Relations:
    """Of C classes with vectors of dimension d.

    Attributes:
        names: of the classes, in the order of the rows.
        inner: float32 (C, C), inner products of the vectors as they are.
        similarity: float32 (C, C), cosine after the mean vector is subtracted, 1 on the diagonal; 0 beside a class
            whose vector is the mean.
        neighbors: (C, 5), positions of the most similar other classes, the most similar first.
        linkage: (C - 1, 4), the average-linkage tree of 1 - similarity as scipy writes it.
        order: (C,), the leaves of the tree from left to right.
    """

    names: tuple[str, ...]
    inner: np.ndarray
    similarity: np.ndarray
    neighbors: np.ndarray
    linkage: np.ndarray
    order: np.ndarray

    def neighbor_names(self) -> dict[str, list[str]]:
        """Class -> its five most similar others."""
        return {name: [self.names[j] for j in row] for name, row in zip(self.names, self.neighbors, strict=True)}


def class_means(x: torch.Tensor, labels: torch.Tensor, classes: Sequence[str]) -> torch.Tensor:
    """Means (C, D), float64, of the L2-normalised features (N, D) of each class; not normalised again (our choice).

    Raises:
        ClzooError: a class without images, or features that are not finite.
    """
    if not torch.isfinite(x).all():
        raise ClzooError("features are not finite (NaN or infinity): the encoder is broken.")
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if count == 0]
    if empty:
        raise ClzooError(f"class relations need images of every class; there are none of {_some(empty)}.")
    sums = torch.zeros(len(classes), x.shape[1], dtype=torch.float64)
    for part, of in zip(x.split(_ROWS), labels.split(_ROWS), strict=True):
        sums.index_add_(0, of, F.normalize(part.double(), dim=1))
    return sums / counts[:, None]


def class_relations(vectors: torch.Tensor, names: Sequence[str]) -> Relations:
    """Similarities, neighbors and tree of the class vectors (C, d).

    Of equally similar classes the first is the nearer.

    Raises:
        ClzooError: fewer than six classes, another number of names, or values that are not finite.
    """
    count = len(vectors)
    if count != len(names):
        raise ClzooError(f"there are {count} class vectors and {len(names)} class names; expected one name each.")
    if count <= NEIGHBORS:
        raise ClzooError(
            f"class relations need at least {NEIGHBORS + 1} classes, each has {NEIGHBORS} neighbors; found {count}: "
            f"{_some(names)}. Leave out the protocol relations."
        )
    if not torch.isfinite(vectors).all():
        raise ClzooError("class vectors are not finite (NaN or infinity): the encoder or its gates are broken.")
    vectors = vectors.double()
    centered = vectors - vectors.mean(dim=0)  # (C, d)
    centered[centered.norm(dim=1) <= _EQUAL * vectors.norm(dim=1).max()] = 0
    units = F.normalize(centered, dim=1)
    similarity = (units @ units.T).clamp(-1, 1).fill_diagonal_(1).float().numpy()
    tree = linkage(squareform(1 - similarity.astype(np.float64), checks=False), method="average")
    return Relations(
        names=tuple(names),
        inner=(vectors @ vectors.T).float().numpy(),
        similarity=similarity,
        neighbors=_nearest(similarity),
        linkage=tree,
        order=leaves_list(tree),
    )


def _nearest(similarity: np.ndarray) -> np.ndarray:
    """(C, 5): positions of the highest values of each row, beside its own; of equal ones the first."""
    distance = -similarity
    np.fill_diagonal(distance, np.inf)
    return np.argsort(distance, axis=1, kind="stable")[:, :NEIGHBORS]


def taxonomy_scores(similarity: np.ndarray, names: Sequence[str], taxonomy: dict[str, str]) -> dict[str, float | None]:
    """How far a similarity matrix (C, C) agrees with a taxonomy.

    Returns:
        "spearman": rank correlation, over the pairs of different classes, of their similarity with the number of
            ancestors they share (with one level: whether they have the same parent). None where either is constant.
        "purity_at_5": mean share of a class's 5 most similar others that have its parent; of equally similar ones each
            counts by its share of the places that are left, so the order of the classes is no matter.
        "purity_at_5_by_chance": its expectation for neighbors drawn at random.
        "purity_at_5_at_best": its highest possible value: below 1 where a parent has fewer than six classes.

    Raises:
        ClzooError: fewer than six classes, or a class that the taxonomy lacks.
    """
    lacking = [name for name in names if name not in taxonomy]
    if lacking:
        raise ClzooError(
            f"the taxonomy lacks {len(lacking)} of {len(names)} classes: {_some(lacking)}. "
            "Add a line CLASS,PARENT for each, spelled as the class is."
        )
    if len(names) <= NEIGHBORS:
        raise ClzooError(f"purity at {NEIGHBORS} needs at least {NEIGHBORS + 1} classes, found {len(names)}.")
    parents = np.array([taxonomy[name] for name in names])
    same = parents[:, None] == parents  # (C, C)
    siblings = same.sum(axis=1) - 1
    others = torch.from_numpy(similarity.copy()).fill_diagonal_(-torch.inf)
    purity = (chance_of_k_highest(others, NEIGHBORS) * torch.from_numpy(same)).sum(dim=1).mean() / NEIGHBORS
    pairs = np.triu_indices(len(names), 1)
    return {
        "spearman": _spearman(similarity[pairs], _shared_depth(names, taxonomy)[pairs]),
        "purity_at_5": float(purity),
        "purity_at_5_by_chance": float(siblings.mean() / (len(names) - 1)),
        "purity_at_5_at_best": float(np.minimum(siblings, NEIGHBORS).mean() / NEIGHBORS),
    }


def _shared_depth(names: Sequence[str], taxonomy: dict[str, str]) -> np.ndarray:
    """(C, C): how many ancestors two classes have in common."""
    above = [ancestors(name, taxonomy) for name in names]
    columns = {group: i for i, group in enumerate(dict.fromkeys(group for groups in above for group in groups))}
    member = np.zeros((len(names), len(columns)), dtype=np.int64)
    for row, groups in enumerate(above):
        member[row, [columns[group] for group in groups]] = 1
    return member @ member.T


def _spearman(a: np.ndarray, b: np.ndarray) -> float | None:
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return None
    return float(spearmanr(a, b).statistic)


def evaluate_relations(
    test: Features,
    *,
    filter: FeatureFilter | None = None,
    filter_classes: Sequence[str] | None = None,
    taxonomy: str | Path | None = None,
    seeds: tuple[int, ...] = (0,),
) -> Outcome:
    """Relations of the classes by the means of their features and, with a filter, by its gates.

    With a taxonomy both are scored, beside controls: gates at random initialisation, and labels shuffled among the
    classes; each is drawn CONTROL_DRAWS times a seed.

    Args:
        filter_classes: names of the filter's classes, in its order; None where nobody recorded them: those of `test`,
            if as many, with a warning.
            Gates of more or fewer classes than `test` has are passed over with a warning.
        taxonomy: what `read_taxonomy` takes; default the shipped one that covers the classes, if there is one.

    Returns:
        metrics "features Spearman", "features purity@5" and the same of gates; details {"features": {"neighbors":
        {class: [5 names]}, and what `taxonomy_scores` returns}, "gates": the same or None, "controls": {"features,
        shuffled labels", "gates, shuffled labels", "gates, untrained": {"spearman", "spearman_std", "purity_at_5",
        "purity_at_5_std"}}, "taxonomy": name or None}; arrays "relations_features_similarity", "..._order" (leaves of
        the tree), "..._linkage", those of gates, and "relations_taxonomy_order".

    Raises:
        ClzooError: fewer than six classes, a class without images, a class that the taxonomy lacks; gates of as many
            classes as `test` has, but other ones by their names.
    """
    names = test.classes
    vectors = {"features": class_means(test.x, test.labels, names)}
    if filter is not None:
        gates = _gates_of(filter, filter_classes, names)
        if gates is not None:
            vectors["gates"] = gates
    relations = {source: class_relations(of, names) for source, of in vectors.items()}
    taxonomy = find_taxonomy(names) if taxonomy is None else taxonomy
    title = None if taxonomy is None else Path(taxonomy).name
    parents = None if taxonomy is None else read_taxonomy(taxonomy)
    protocol = f"relations:v1(unit,centered,cos,k={NEIGHBORS},taxonomy={title})"
    outcome = Outcome([], {"features": None, "gates": None, "controls": {}, "taxonomy": title})
    for source, found in relations.items():
        scores = _NO_SCORES if parents is None else taxonomy_scores(found.similarity, names, parents)
        for key, metric in (("spearman", "Spearman"), ("purity_at_5", "purity@5")):
            value = scores[key]
            if value is not None:
                outcome.results.append(Result(protocol, f"{source} {metric}", value))
        outcome.details[source] = {"neighbors": found.neighbor_names(), **scores}
        outcome.arrays[f"relations_{source}_similarity"] = found.similarity
        outcome.arrays[f"relations_{source}_order"] = found.order
        outcome.arrays[f"relations_{source}_linkage"] = found.linkage
    if parents is not None:
        outcome.arrays["relations_taxonomy_order"] = taxonomy_order(names, parents)
        outcome.details["controls"] = _controls(relations, filter, parents, seeds)
    return outcome


def _gates_of(filter: FeatureFilter, names: Sequence[str] | None, classes: tuple[str, ...]) -> torch.Tensor | None:
    """Gates (C, d) in the order of `classes`, by name where there are names; None where the filter has other ones."""
    gates = gate_vectors(filter)
    if names is not None and len(names) != len(gates):
        raise ClzooError(f"the filter has gates for {len(gates)} classes, but {len(names)} names are given for them.")
    if len(gates) != len(classes):
        log.warning("the gates are of %d other classes than the data's %d: not related", len(gates), len(classes))
        return None
    if names is None:
        log.warning("the names of the gates' classes were not recorded: gate i is taken for class i of the data")
        return gates
    place = places_by_name(classes, names)
    if place is None:
        missing, unused = (
            [name for name in one if name not in other] for one, other in ((classes, names), (names, classes))
        )
        raise ClzooError(
            f"the gates are not of the data's classes: there is none for {missing[0]}, but one for {unused[0]} "
            f"({len(missing)} of {len(classes)} differ). Name the class folders as in pretraining, or leave out the "
            "protocol relations."
        )
    return gates[torch.from_numpy(place)]


def taxonomy_order(names: Sequence[str], taxonomy: dict[str, str]) -> np.ndarray:
    """(C,) positions of the classes, those under one parent side by side, and parents under one side by side."""
    paths = [(*reversed(ancestors(name, taxonomy)), name) for name in names]
    return np.array(sorted(range(len(names)), key=paths.__getitem__))


def _controls(
    relations: dict[str, Relations], filter: FeatureFilter | None, parents: dict[str, str], seeds: tuple[int, ...]
) -> dict[str, dict[str, float | None]]:
    """What the scores are without what they are meant to show."""
    draws = [seed * CONTROL_DRAWS + draw for seed in seeds for draw in range(CONTROL_DRAWS)]
    controls = {}
    for source, of in relations.items():
        orders = [np.random.RandomState(draw).permutation(len(of.names)) for draw in draws]
        shuffled = [taxonomy_scores(of.similarity, [of.names[i] for i in order], parents) for order in orders]
        controls[f"{source}, shuffled labels"] = _over_draws(shuffled)
    if filter is not None and "gates" in relations:
        names = relations["gates"].names
        drawn = [class_relations(gate_vectors(_untrained_like(filter, draw)), names) for draw in draws]
        controls["gates, untrained"] = _over_draws([taxonomy_scores(of.similarity, names, parents) for of in drawn])
    return controls


def _untrained_like(filter: FeatureFilter, seed: int) -> FeatureFilter:
    sizes = {name: tensor.shape for name, tensor in filter.state_dict().items()}
    classes, label_dim = sizes["label_embedding.weight"]
    dim, hidden_dim = sizes["gate.5.weight"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return FeatureFilter(classes, dim, label_dim, hidden_dim)


def _over_draws(scores: list[dict[str, float | None]]) -> dict[str, float | None]:
    """{"spearman": mean, "spearman_std": standard deviation, ...}; None where a score is."""
    summary: dict[str, float | None] = {}
    for key in _NO_SCORES:
        values = [value for score in scores if (value := score[key]) is not None]
        summary[key] = statistics.mean(values) if values else None
        summary[f"{key}_std"] = statistics.stdev(values) if len(values) > 1 else None
    return summary


def _some(names: Sequence[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
