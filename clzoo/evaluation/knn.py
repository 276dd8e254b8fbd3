"""k-NN classification of frozen features: protocol knn:v1(k=20,T=0.07,cos), whose bank is the whole train split.

The votes: `clzoo.knn`.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from clzoo.data.classes import with_classes_of
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.mistakes import predicted_classes, predictions_name
from clzoo.evaluation.results import Outcome, Result
from clzoo.evaluation.scores import accuracy_of
from clzoo.knn import KNN_INSTDISC, KNN_V1, Knn, vote
from clzoo.neighbors import nearest


def evaluate_knn(
    train: Features, test: Features, *, protocols: Sequence[Knn] = (KNN_V1, KNN_INSTDISC), device: torch.device
) -> Outcome:
    """Accuracy on `test` with `train` as the bank; the neighbors are found once, for the largest k.

    Raises:
        ClzooError: classes that differ, k larger than the bank, or features that are not finite.
    """
    for protocol in protocols:
        if protocol.k > len(train):
            others = "knn" if len(train) >= KNN_V1.k else "linear"
            raise ClzooError(
                f"{protocol.id}: k-NN with k={protocol.k} needs at least {protocol.k} bank images, found {len(train)} "
                f"in {train.origin}. Ask for another protocol: --protocol {others}"
            )
    test = with_classes_of(train, test)
    largest = max(protocol.k for protocol in protocols)
    similarity, rows = nearest(train.x, test.x, largest, device=device)
    neighbor_labels = train.labels[rows]  # (Q, k)
    outcome = Outcome([], {"protocols": {}})
    for protocol in protocols:
        scores = vote(
            similarity, neighbor_labels, len(train.classes), k=protocol.k, temperature=protocol.temperature
        )  # (Q, C)
        accuracy = accuracy_of(scores, test.labels)
        outcome.results.append(Result(protocol.id, "top-1", accuracy.top1))
        outcome.details["protocols"][protocol.id] = accuracy.to_json()
        outcome.arrays[predictions_name(protocol.id)] = predicted_classes(scores)
    return outcome
