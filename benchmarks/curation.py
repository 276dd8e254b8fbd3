"""What the jobs of `clzoo curate` find where the truth is planted: copies, wrong labels, strangers, and labels to come.

    clzoo embed cifar10/test --labels --out cifar-test     # any folder with a sub-folder a class
    python benchmarks/curation.py cifar-test tiny-val      # several minutes each on two cores
    python benchmarks/curation.py cifar-test --images 4000 --seeds 2
    python benchmarks/curation.py --made 60000x256         # seconds alone

Each store is looked at by itself, with the encoder that made it, in a random part of `--images` rows:

    duplicates  copies of 100 images, one of a random kind each, stand among the images; by share of false flags: pairs
                reported, how many of them are planted, and by kind what share is found. A pair that is not planted
                counts as false, also where the collection has copies of its own.
    labels      1, 5 and 10 % of the labels are flipped, to any other class or to the next one: precision among as many
                as were flipped, and the area under the curve, for both methods and both rankings; the same scores by
                cleanlab on the same probabilities, where it is installed.
    outliers    1 % strangers from the other store (of the same encoder): precision among as many, and the area.
    select      accuracy on the images that were not chosen of linear:v1 from 1, 2, 5 and 10 images a class, chosen by
                each way and at random (three draws): mean over the seeds, which choose the rows that are looked at.
    seconds     of the search for pairs, and of the methods out of fold, on made vectors with `--made 60000x256`; beside
                cleanlab's on the same probabilities, where it is installed. `--made 1000000x512` takes up to an hour.
    imagededup  its perceptual hash on the same pictures and copies: pairs reported and planted ones among them, and its
                seconds with decoding. Where it is installed.

Nothing is written. An accuracy here is of the encoder as much as of the job.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import resource
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from clzoo.curation.calibration import choose_threshold, draw_samples
from clzoo.curation.distinct import fit_distinct
from clzoo.curation.folds import METHODS, Labelled, out_of_fold, probabilities
from clzoo.curation.indexed_pairs import all_pairs
from clzoo.curation.labels import RANKINGS, quality
from clzoo.curation.outliers import NEIGHBOR, kth_distances
from clzoo.curation.pairs import pairs_above, similarity_of, unit_vectors
from clzoo.curation.pictures import Pictures, encoder_of
from clzoo.curation.planting import KINDS
from clzoo.curation.selection import balanced, diverse, typical
from clzoo.embed import open_store
from clzoo.embed.store import Store
from clzoo.hardware import describe_hardware

JOBS = ("duplicates", "labels", "outliers", "select")
PLANTED = 100
SHOTS = (1, 2, 5, 10)
DRAWS = 3  # of random images from the same rows: one draw alone is off by two points


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stores", nargs="*", type=Path)
    parser.add_argument("--images", type=int, default=5000, help="rows of each store that are looked at")
    parser.add_argument("--seeds", type=int, default=5, help="of what is drawn for select")
    parser.add_argument("--jobs", default=",".join(JOBS), help=f"some of {', '.join(JOBS)}")
    parser.add_argument("--made", metavar="NxD", help="seconds on so many made vectors; no store is looked at")
    options = parser.parse_args()
    if options.made:
        timings(*map(int, options.made.split("x")))
        return
    print(f"{describe_hardware()}, at most {options.images} images of each store")
    stores = [open_store(path) for path in options.stores]
    jobs = options.jobs.split(",")
    for number, store in enumerate(stores):
        print(f"\n{store.path.name}: {len(store)} images, {store.manifest.model}")
        rows = np.sort(np.random.default_rng(0).permutation(len(store))[: options.images])
        every = unit_vectors(store)
        vectors = every[rows]
        known = Labelled.of([store.labels[row] for row in rows], str(store.path))
        if "duplicates" in jobs:
            duplicates(store, vectors, rows)
            if importlib.util.find_spec("imagededup") is not None:
                perceptual(store, rows)
        if "labels" in jobs:
            labels(vectors[known.rows], known)
        others = [other for at, other in enumerate(stores) if at != number and same_encoder(other, store)]
        if others and "outliers" in jobs:
            outliers(vectors, unit_vectors(others[0]))
        if "select" in jobs:
            select(every, store.labels, options.images, options.seeds)


def clocks() -> tuple[float, float]:
    """Of the wall, and of this process's threads: where others compute too, the second tells what idle cores need."""
    return time.perf_counter(), time.process_time()


def since(started: tuple[float, float]) -> str:
    """Seconds in words."""
    wall, own = (now - before for now, before in zip(clocks(), started, strict=True))
    return f"{wall:.1f} s, {own:.1f} s of CPU"


def timings(count: int, dim: int) -> None:
    """Seconds of duplicates and labels on made vectors of 100 classes, a hundredth of them near copies of others."""
    random = np.random.default_rng(0)
    kinds = random.integers(100, size=count)
    spread = random.normal(size=(20, dim)).astype(np.float32)  # as of images: they fill few of the dimensions
    vectors = random.normal(size=(100, dim)).astype(np.float32)[kinds]
    within = 2 * random.normal(size=(count, 20)).astype(np.float32) / 20**0.5
    for start in range(0, count, 2**16):  # in parts, so that the memory below is that of the jobs
        vectors[start : start + 2**16] += within[start : start + 2**16] @ spread
    copies = count // 100
    vectors[-copies:] = vectors[:copies] + 0.02 * random.normal(size=(copies, dim)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    kinds[-copies:] = kinds[:copies]
    load = ", ".join(f"{each:.1f}" for each in os.getloadavg())
    print(f"{describe_hardware()}, load {load} at the start\n{count:,} x {dim} made vectors")
    started = clocks()
    distinct = fit_distinct(vectors, draw_samples(count)[1])
    assert distinct is not None
    pairs, recall = all_pairs(vectors, distinct.similarity_of(min(count, distinct.pairs)))
    exact = similarity_of(pairs, vectors, vectors)
    threshold, found = choose_threshold(exact, distinct, 0.001)
    true = int((pairs.where(exact >= threshold).second - pairs.where(exact >= threshold).first == count - copies).sum())
    seconds = since(started)
    searched = "every pair computed" if recall is None else f"through the index, recall {recall:.3f}"
    print(f"  duplicates  {seconds}, {searched}; {found} pairs at 0.001, {true} of {copies} planted", flush=True)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"  memory      {memory:7.2f} GiB at most, the vectors among it", flush=True)
    if count > 200_000:
        return
    known = Labelled(np.arange(count), kinds, tuple(f"{number:02}" for number in range(100)))
    for method in METHODS:
        started = clocks()
        told = out_of_fold(vectors, known, method)
        quality(told, kinds, "self_confidence")
        print(f"  labels      {since(started)}, {method}", flush=True)
    if importlib.util.find_spec("cleanlab") is not None:
        from cleanlab.filter import find_label_issues

        ours = time.perf_counter()
        quality(told, kinds, "self_confidence")
        ours, started = time.perf_counter() - ours, time.perf_counter()
        find_label_issues(kinds, told, return_indices_ranked_by="self_confidence", n_jobs=1)
        theirs = time.perf_counter() - started
        print(f"  cleanlab    {theirs:7.1f} s for its list, same probabilities, {theirs / ours:.0f} x our scores")


def perceptual(store: Store, rows: np.ndarray) -> None:
    """imagededup's hash beside us: the same pictures with the same planted copies, as files."""
    from imagededup.methods import PHash

    pictures, random = Pictures(store), np.random.default_rng(1)
    origin = random.choice(len(rows), PLANTED, replace=False)
    kinds = np.array(list(KINDS))[np.arange(PLANTED) % len(KINDS)]
    with tempfile.TemporaryDirectory() as folder:
        for row in rows.tolist():
            pictures.image(row).save(f"{folder}/{row}.png")
        for number, (kind, place) in enumerate(zip(kinds, origin, strict=True)):
            KINDS[kind](pictures.image(int(rows[place]))).save(f"{folder}/copy{number}.png")
        for distance in (0, 2, 10):
            started = time.perf_counter()
            hashes = PHash(verbose=False).encode_images(folder, num_enc_workers=0)
            near = PHash(verbose=False).find_duplicates(
                encoding_map=hashes, max_distance_threshold=distance, num_dist_workers=0
            )
            seconds = time.perf_counter() - started
            found = {frozenset((name, other)) for name, others in near.items() for other in others}
            planted = [frozenset((f"{rows[place]}.png", f"copy{number}.png")) for number, place in enumerate(origin)]
            true = [pair in found for pair in planted]
            shares = [
                f"{kind} {np.mean([t for t, k in zip(true, kinds, strict=True) if k == kind]):.0%}" for kind in KINDS
            ]
            print(
                f"  imagededup's PHash, distance {distance}: {len(found)} pairs, {sum(true)} planted, "
                f"{len(found) - sum(true)} others; {seconds:.1f} s with decoding\n    {', '.join(shares)}"
            )


def same_encoder(a: Store, b: Store) -> bool:
    """Whether vectors of two stores can be compared."""
    return a.manifest.weights_sha256 == b.manifest.weights_sha256


def duplicates(store: Store, vectors: np.ndarray, rows: np.ndarray) -> None:
    """Plant one copy each of some images, and choose the threshold by several shares."""
    random = np.random.default_rng(1)
    origin = random.choice(len(rows), PLANTED, replace=False)
    kinds = np.array(list(KINDS))[np.arange(PLANTED) % len(KINDS)]
    pictures = Pictures(store)
    copies = encoder_of(store).embed(
        [KINDS[kind](pictures.image(int(rows[place]))) for kind, place in zip(kinds, origin, strict=True)]
    )
    planted = np.concatenate([vectors, copies.astype(np.float32)])
    distinct = fit_distinct(planted, draw_samples(len(planted))[1])
    assert distinct is not None, "too few images"
    started = time.perf_counter()
    pairs = pairs_above(planted, distinct.similarity_of(min(len(planted), distinct.pairs)))
    seconds = time.perf_counter() - started
    exact = similarity_of(pairs, planted, planted)
    print(f"  duplicates: {PLANTED} copies planted, dimension {distinct.dimension:.1f}, all pairs in {seconds:.1f} s")
    print("    asked   cosine  pairs  planted  false  expected false")
    for share in (0.1, 0.01, 0.001):
        threshold, count = choose_threshold(exact, distinct, share)
        found = pairs.where(exact >= threshold)
        is_copy = (found.second >= len(vectors)) & (found.first == origin[(found.second - len(vectors)).clip(0)])
        expected = float(distinct.beyond(threshold))
        true = int(is_copy.sum())
        print(f"    {share:<7g} {threshold:.4f}  {count:5}  {true:7}  {count - true:5}  {expected:.2g}")
        seen = np.isin(np.arange(PLANTED), found.second[is_copy] - len(vectors))
    shares = [f"{kind} {seen[kinds == kind].mean():.0%}" for kind in KINDS]
    print(f"    found at the last: {', '.join(shares)}")


def labels(vectors: np.ndarray, known: Labelled) -> None:
    """Flip labels and look how many of the worst are among the flipped."""
    has_cleanlab = importlib.util.find_spec("cleanlab") is not None
    print(f"  labels (cleanlab {'installed' if has_cleanlab else 'not installed'})")
    print("    flips      share  method  ranking             precision  area   cleanlab's  seconds")
    for pairwise in (False, True):
        for share in (0.01, 0.05, 0.1):
            random = np.random.default_rng(2)
            flipped = random.choice(len(known.labels), round(share * len(known.labels)), replace=False)
            step = 1 if pairwise else random.integers(1, len(known.classes), len(flipped))
            noisy = known.labels.copy()
            noisy[flipped] = (noisy[flipped] + step) % len(known.classes)
            for method in METHODS:
                started = time.perf_counter()
                found = out_of_fold(vectors, Labelled(known.rows, noisy, known.classes), method)
                seconds = time.perf_counter() - started
                for ranking in RANKINGS:
                    precision, area = judged(-quality(found, noisy, ranking), flipped)
                    theirs = "-"
                    if has_cleanlab:
                        from cleanlab.rank import get_label_quality_scores

                        score = get_label_quality_scores(noisy, found, method=ranking)
                        theirs = f"{judged(-np.asarray(score), flipped)[0]:.3f}"
                    kind = "next class" if pairwise else "any class "
                    print(
                        f"    {kind} {share:5.0%}  {method:6}  {ranking:18}  {precision:9.3f}  {area:.3f}  "
                        f"{theirs:10}  {seconds:.1f}"
                    )


def outliers(vectors: np.ndarray, others: np.ndarray) -> None:
    """Strangers among the images, by the distance to the k-th neighbor."""
    random = np.random.default_rng(3)
    strangers = others[random.choice(len(others), max(1, len(vectors) // 100), replace=False)]
    distances = kth_distances(np.concatenate([vectors, strangers]), NEIGHBOR)
    precision, area = judged(distances, np.arange(len(vectors), len(distances)))
    print(f"  outliers: {len(strangers)} strangers, precision among as many {precision:.3f}, area {area:.3f}")


def select(every: np.ndarray, names: Sequence[str | None], images: int, seeds: int) -> None:
    """Accuracy of linear:v1 from what each way chooses, against random choices."""
    classes = len({name for name in names if name is not None})
    print(f"  select: accuracy of linear:v1 (%), {seeds} seeds, images a class: {', '.join(map(str, SHOTS))}")
    ways = {"random": None, "typical": typical, "diverse": diverse, "balanced": balanced}
    for name, way in ways.items():
        means = []
        for shots in SHOTS:
            found = []
            for seed in range(seeds):
                random = np.random.default_rng(seed)
                rows = random.permutation(len(every))[:images]
                known = Labelled.of([names[row] for row in rows], "the store")
                vectors, n = every[rows], min(shots * classes, images // 2)
                none = np.empty(0, np.int64)
                draws = [np.arange(n)] if way is None else [np.array(way(vectors, n, none))]
                if way is None:
                    again = (np.random.default_rng(100 * seed + draw) for draw in range(1, DRAWS))
                    draws += [other.permutation(len(rows))[:n] for other in again]
                found.append(np.mean([accuracy(vectors, known, chosen) for chosen in draws]))
            means.append(f"{np.mean(found):6.2f} ± {np.std(found):.2f}")
        print(f"    {name:9} {'  '.join(means)}")


def accuracy(vectors: np.ndarray, known: Labelled, chosen: np.ndarray) -> float:
    """Percent right of the images that were not chosen; without two images of any class by k-NN's nearest."""
    rest = np.setdiff1d(np.arange(len(vectors)), chosen)
    few = Labelled(chosen, known.labels[chosen], known.classes)
    method = "linear" if np.bincount(few.labels).max() > 1 else "knn"
    found = probabilities(vectors[chosen], few, vectors[rest], method)
    return 100 * float((found.argmax(axis=1) == known.labels[rest]).mean())


def judged(badness: np.ndarray, bad: np.ndarray) -> tuple[float, float]:
    """Precision among the worst of as many as are bad, and the area under the curve (ties count half)."""
    is_bad = np.zeros(len(badness), bool)
    is_bad[bad] = True
    worst = np.argsort(-badness, kind="stable")[: len(bad)]
    values, place = np.unique(badness, return_inverse=True)
    good_below = np.concatenate([[0], np.cumsum(np.bincount(place[~is_bad], minlength=len(values)))])
    wins = (good_below[place[is_bad]] + good_below[place[is_bad] + 1]) / 2
    return float(is_bad[worst].mean()), float(wins.mean() / (~is_bad).sum())


if __name__ == "__main__":
    main()
