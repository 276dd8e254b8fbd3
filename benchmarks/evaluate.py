"""Our k-NN beside lightly's and FAISS's, and linear:v1 beside the same protocol with scikit-learn, in one run.

    python benchmarks/evaluate.py                     # about ten minutes on two cores
    python benchmarks/evaluate.py --only knn --rounds 5
    python benchmarks/evaluate.py --quick             # small sets: whether it runs, not how fast

Everything runs once per round, the rounds are interleaved, and compared are the best of each: absolute times move with
the machine's load. All start from the same raw float32 features and end with predicted classes.

    k-NN      50,000 x 10,000 x 512. lightly: `knn_predict` on L2-normalised features, all queries in one call, which
              is its fastest way and takes above 2 GB. FAISS: IndexFlatIP filled and searched, then our votes. The
              memory that ours adds to the process at its peak is measured in the first round and has to be below 2 GiB.
    linear    50,000 x 512, 10 classes: standardise, five penalties on nine tenths, choose by the rest, fit the whole.
              scikit-learn: LogisticRegression with its own solver (lbfgs) and tolerance and as many iterations as it
              asks for; it minimises C * (sum of cross-entropy) + |W|^2 / 2, so C = 1 / (penalty * images).

Features are generated: ten overlapping classes of several clusters each, in 512 dimensions whose spread falls as that
of real encoders does. lightly is optional (pip install lightly); what is missing is printed as "not measured".
Figures with their hardware: docs/performance.md.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import sklearn
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression

from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import PENALTIES, linear_scores, validation_rows
from clzoo.evaluation.softmax import Standardization, fit_softmax
from clzoo.hardware import describe_hardware
from clzoo.knn import KNN_INSTDISC, KNN_V1, Knn, knn_predict, vote

CLASSES, SEED = 10, 0
MEMORY = 2 << 30  # bytes that k-NN may add to the process
CPU = torch.device("cpu")


def main() -> None:
    arguments = parse()
    bank, queries, dim = (3000, 600, 64) if arguments.quick else (50_000, 10_000, 512)
    train, test = generated_features(bank, queries, dim)
    rounds = 1 if arguments.quick else arguments.rounds
    print(f"{describe_hardware()}, {torch.get_num_threads()} threads, torch {torch.__version__}, faiss "
          f"{faiss.__version__}, scikit-learn {sklearn.__version__}, best of {rounds} round(s)")  # fmt: skip
    print("Small sets: the targets are for the large ones.\n" if arguments.quick else "")
    if arguments.only != "linear":
        for protocol in (KNN_V1, KNN_INSTDISC):
            compare_knn(protocol, train, test, rounds)
    if arguments.only != "knn":
        compare_linear(train, test, rounds)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("knn", "linear"), help="one half of it")
    parser.add_argument("--rounds", default=3, type=int, help="(default 3)")
    parser.add_argument("--quick", action="store_true", help="small sets, one round")
    return parser.parse_args()


def generated_features(train: int, test: int, dim: int) -> tuple[Features, Features]:
    """Two splits. Axes have standard deviations i^-0.75; a class is 8 clusters, apart on the first axes above all."""
    generator = torch.Generator().manual_seed(SEED)
    number = torch.arange(1, dim + 1)
    axes = torch.linalg.qr(torch.randn(dim, dim, generator=generator)).Q * (number**-0.75)[:, None]  # (D, D)
    centers = 1.5 * torch.randn(CLASSES, 8, dim, generator=generator) * number**-0.35  # in units of the spread

    def split(images: int, name: str) -> Features:
        labels = torch.randint(CLASSES, (images,), generator=generator)
        clusters = torch.randint(8, (images,), generator=generator)
        x = (centers[labels, clusters] + torch.randn(images, dim, generator=generator)) @ axes
        return Features(x, labels, tuple(map(str, range(CLASSES))), name, {})

    return split(train, "train"), split(test, "test")


def compare_knn(protocol: Knn, train: Features, test: Features, rounds: int) -> None:
    """Predictions of all ways, their times, and the memory of ours."""
    ways: dict[str, Callable[[], torch.Tensor]] = {
        "ours": lambda: knn_predict(train.x, train.labels, test.x, protocol.k, protocol.temperature),
        "FAISS Flat": lambda: with_faiss(protocol, train, test),
    }
    theirs = lightly_knn_predict()
    if theirs is not None:
        ways["lightly"] = lambda: with_lightly(theirs, protocol, train, test)
    print(f"{protocol.id}, bank {len(train)}, queries {len(test)}, dimension {train.x.shape[1]}")
    added = memory_added(ways["ours"])
    seconds, predicted = interleaved(rounds, ways)
    top1 = 100 * (predicted["ours"] == test.labels).double().mean().item()
    for name, best in seconds.items():
        same = int((predicted[name] == predicted["ours"]).sum())
        print(f"  {name:12}{best:8.2f} s   {best / seconds['ours']:5.2f} of ours   "
              f"{same} of {len(test)} predictions as ours")  # fmt: skip
    if theirs is None:
        print("  lightly         not measured: it is not installed (pip install lightly)")
    rival = min(best for name, best in seconds.items() if name != "ours")
    verdict(f"the faster of the others / ours = {rival / seconds['ours']:.2f}", rival >= seconds["ours"], "1")
    if added is None:
        print("  memory          not measured: this system does not say what the peak was")
    else:
        print(f"  memory added by ours at its peak: {added / 2**30:.2f} GiB")
        assert added <= MEMORY, f"k-NN added {added / 2**30:.2f} GiB to the process; at most 2 were expected"
    print(f"  top-1 of ours: {top1:.2f} %\n")


def with_faiss(protocol: Knn, train: Features, test: Features) -> torch.Tensor:
    index = faiss.IndexFlatIP(train.x.shape[1])
    index.add(F.normalize(train.x, dim=1).numpy())
    similarity, rows = index.search(F.normalize(test.x, dim=1).numpy(), protocol.k)
    neighbor_labels = train.labels[torch.from_numpy(rows)]
    votes = vote(torch.from_numpy(similarity), neighbor_labels, CLASSES, k=protocol.k, temperature=protocol.temperature)
    return votes.argmax(dim=1)


def with_lightly(theirs: Callable[..., torch.Tensor], protocol: Knn, train: Features, test: Features) -> torch.Tensor:
    bank, queries = F.normalize(train.x, dim=1).T, F.normalize(test.x, dim=1)
    return theirs(queries, bank, train.labels, CLASSES, protocol.k, protocol.temperature)[:, 0]


def lightly_knn_predict() -> Callable[..., torch.Tensor] | None:
    """lightly's function, from its file alone: the package around it imports pytorch_lightning."""
    package = importlib.util.find_spec("lightly")
    if package is None or not package.submodule_search_locations:
        return None
    file = Path(package.submodule_search_locations[0], "utils", "benchmarking", "knn.py")
    spec = importlib.util.spec_from_file_location("lightly_knn", file)
    if spec is None or spec.loader is None or not file.is_file():
        return None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    predict: Callable[..., torch.Tensor] = module.knn_predict
    return predict


def compare_linear(train: Features, test: Features, rounds: int) -> None:
    """Accuracies and times, and how far each minimises."""
    ways: dict[str, Callable[[], Any]] = {
        "ours": lambda: linear_scores(train, test, seed=SEED, loss="plain", device=CPU),
        "scikit-learn": lambda: with_scikit_learn(train, test),
    }
    print(
        f"linear:v1, {len(train)} x {train.x.shape[1]}, {CLASSES} classes: {len(PENALTIES)} penalties and the last fit"
    )
    seconds, results = interleaved(rounds, ways)
    ours, (theirs, penalty, model, iterations) = results["ours"], results["scikit-learn"]
    accuracies = {}
    for name, scores, chosen in (("ours", ours.scores, ours.penalty), ("scikit-learn", theirs, penalty)):
        accuracies[name] = 100 * (scores.argmax(dim=1) == test.labels).double().mean().item()
        print(f"  {name:12}{seconds[name]:8.2f} s   top-1 {accuracies[name]:.2f} %, penalty {chosen:g}")
    print(f"  scikit-learn's iterations, from the strongest penalty: {iterations}")
    standardization = Standardization.of(train.x)
    again = fit_softmax(train.x, train.labels, CLASSES, penalty=penalty, standardization=standardization)
    x = standardization(train.x)
    weight, bias = torch.from_numpy(model.coef_).float(), torch.from_numpy(model.intercept_).float()
    for name, w, b in (("ours", again.weight.float(), again.bias.float()), ("scikit-learn", weight, bias)):
        minimised = F.cross_entropy(torch.addmm(b, x, w.T), train.labels) + penalty / 2 * w.square().sum()
        print(f"  {name:12} minimises, at penalty {penalty:g}, to {minimised.item():.6f}")
    gap, ratio = abs(accuracies["ours"] - accuracies["scikit-learn"]), seconds["scikit-learn"] / seconds["ours"]
    verdict(f"difference of the accuracies = {gap:.2f} points", gap <= 0.2, "at most 0.2")
    verdict(f"scikit-learn / ours = {ratio:.2f}", ratio >= 2, "2")


def with_scikit_learn(train: Features, test: Features) -> tuple[torch.Tensor, float, LogisticRegression, list[int]]:
    """Test scores, the chosen penalty, the last fit, and the iterations of each fit."""
    mean, std = train.x.numpy().mean(axis=0), train.x.numpy().std(axis=0)
    x, labels = (train.x.numpy() - mean) / std, train.labels.numpy()
    held_out = validation_rows(labels, SEED)
    rest = np.delete(np.arange(len(labels)), held_out)

    def fit(rows: np.ndarray, penalty: float) -> LogisticRegression:
        return LogisticRegression(C=1 / (penalty * len(rows)), max_iter=100_000).fit(x[rows], labels[rows])

    models = [fit(rest, penalty) for penalty in PENALTIES]
    accuracies = [model.score(x[held_out], labels[held_out]) for model in models]
    penalty = PENALTIES[int(np.argmax(accuracies))]
    last = fit(np.arange(len(labels)), penalty)
    scores = torch.from_numpy(last.decision_function((test.x.numpy() - mean) / std))
    return scores, penalty, last, [int(model.n_iter_.max()) for model in (*models, last)]


def interleaved(rounds: int, ways: dict[str, Callable[[], Any]]) -> tuple[dict[str, float], dict[str, Any]]:
    """Best seconds of each way, called in turns, and what it returned last."""
    best = dict.fromkeys(ways, float("inf"))
    results: dict[str, Any] = {}
    for _ in range(rounds):
        for name, way in ways.items():
            since = time.perf_counter()
            results[name] = way()
            best[name] = min(best[name], time.perf_counter() - since)
    return best, results


def memory_added(function: Callable[[], object]) -> int | None:
    """Bytes of resident memory that the process has at its peak within `function` and had not before; Linux only."""
    try:
        Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        before = resident("VmRSS")
    except OSError:
        return None
    function()
    return resident("VmHWM") - before


def resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(field))


def verdict(measured: str, reached: bool, target: str) -> None:
    print(f"  {measured}   target {target}: {'reached' if reached else 'MISSED'}")


if __name__ == "__main__":
    warnings.filterwarnings("ignore", module="sklearn")
    sys.exit(main())
