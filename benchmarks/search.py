"""FAISS indexes of one million vectors on two cores: what each costs to build, to keep, to open and to search.

    python benchmarks/search.py                            # about a quarter of an hour on two quiet cores, 8 GB of disk
    python benchmarks/search.py --count 100000 --factories SQfp16 HNSW32
    python benchmarks/search.py --folder DIR               # keeps the store there, for the next run too

The store holds 1,000,000 vectors of 512 dimensions in fp16, generated with seed 0: 1,000 groups of 20 clusters of
different sizes, whose spread falls from axis to axis as that of real features does (some 30 dimensions count). Clusters
overlap: the header says how often the nearest neighbor lies in another cluster, and how many clusters the ten nearest
come from. Random vectors without structure would be harder and unlike any features; separate clusters would make every
inverted file look perfect. Queries are drawn like the rows and are not among them.

Each step of each index runs in a process of its own, on the threads asked for:

    build     `clzoo.build_index`, by stages: filling (training included) and measuring the recall, which also chooses
              nprobe or efSearch; then writing. Memory: the peak of the process above what it had with the store open.
    open      `clzoo.open_index`, read and memory-mapped, with the file in the cache of the system: seconds, and the
              memory that is the process's own (anonymous) and that is the file's, after ten searches.
    search    `clzoo.search` with ready vectors, k = 10: median of 30 single queries, best of three times 100 queries.
    recall    recall@10 of 500 queries against exact search in float32, at several nprobe or efSearch; the one that
              build_index chose is marked with a star. Latencies there are FAISS's own, one query at a time.

With --threads 1 the times of queries are CPU time.

A line is printed as soon as it is known. An index that fails is named, the others still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import clzoo
from clzoo.config import Preprocessing
from clzoo.data.listing import item_ids
from clzoo.embed.manifest import Manifest
from clzoo.embed.store import ITEMS_SCHEMA, Store
from clzoo.embed.writer import StoreWriter, VectorFile
from clzoo.hardware import describe_hardware
from clzoo.index import open_index, search
from clzoo.index.vectors import normalized_batches

SEED, DIM, QUERIES, K = 0, 512, 500, 10
GROUPS, CLUSTERS = 1000, 20
CHUNK = 50_000
FACTORIES = ("Flat", "SQfp16", "HNSW32", "IVF4096,Flat", "IVF4096,SQfp16")
EFFORTS = {
    "nprobe": (1, 4, 8, 16, 32, 64, 128),
    "efSearch": (16, 32, 64, 128, 256, 512),
    "k_factor": (1, 2, 4, 8, 16, 32),
}
STATE = "benchmark.npz"


def main() -> None:
    arguments = parse()
    if arguments.step:
        print(json.dumps({"build": build, "open": opened, "recall": recall}[arguments.step](arguments)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = arguments.folder or Path(temporary)
        failed = compare(arguments, folder / f"store-{arguments.count}")
    sys.exit(1 if failed else 0)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", default=1_000_000, type=int, help="vectors (default 1000000)")
    parser.add_argument("--factories", nargs="+", default=list(FACTORIES), metavar="STRING", help="FAISS index_factory")
    parser.add_argument("--threads", default=2, type=int, help="of every process (default 2)")
    parser.add_argument("--folder", type=Path, help="where the store is made, or lies from before; it is kept")
    parser.add_argument("--step", choices=("build", "open", "recall"), help=argparse.SUPPRESS)
    parser.add_argument("--mmap", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def compare(arguments: argparse.Namespace, folder: Path) -> list[str]:
    """All indexes, one after the other; the names of those that failed."""
    faiss = importlib.import_module("faiss")
    print(
        f"{describe_hardware()}, {arguments.threads} threads, faiss {faiss.__version__}, load {os.getloadavg()[0]:.1f}"
    )
    started = time.monotonic()
    if not (folder / STATE).exists():
        generate(folder, arguments.count)
    with np.load(folder / STATE) as state:
        print(
            f"{arguments.count:,} x {DIM} fp16, seed {SEED}, made or found in {time.monotonic() - started:.0f} s; "
            f"the nearest neighbor of a query is of its own cluster in {100 * state['same']:.0f} % of cases, "
            f"its {K} nearest come from {state['clusters']:.1f} clusters\n",
            flush=True,
        )
    failed = []
    for factory in arguments.factories:
        began = time.monotonic()
        try:
            measure(arguments, folder, factory)
        except subprocess.CalledProcessError as error:
            failed.append(factory)
            print(f"{factory}: FAILED ({error.stderr.strip().splitlines()[-1:]})", flush=True)
        print(f"    all of it {time.monotonic() - began:.0f} s, load now {os.getloadavg()[0]:.1f}\n", flush=True)
    return failed


def measure(arguments: argparse.Namespace, folder: Path, factory: str) -> None:
    """The lines of one index, each printed when its process is done."""

    def step(name: str, *options: str) -> dict[str, Any]:
        environment = {**os.environ, "OMP_NUM_THREADS": str(arguments.threads)}
        command = [sys.executable, __file__, "--step", name, "--folder", str(folder), "--factories", factory, *options]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
        return dict(json.loads(done.stdout.splitlines()[-1]))

    built = step("build")
    print(
        f"{factory}\n    build     {built['total']:7.1f} s ({built['fill']:.1f} filling, {built['recall']:.1f} recall, "
        f"{built['write']:.1f} writing), peak memory +{built['memory']:,.0f} MiB, {built['size']:,.0f} MiB on disk, "
        f"recall of rows {built['recall_at_10']:.3f}",
        flush=True,
    )
    for name, options in (("read", ()), ("mmap", ("--mmap",))):
        try:
            way = step("open", *options)
        except subprocess.CalledProcessError as error:
            if name == "read" or "into memory whatever it is told" not in error.stderr:
                raise
            print("    open mmap refused: FAISS reads this kind into memory", flush=True)
            continue
        print(
            f"    open {name} {way['open']:7.3f} s, own memory +{way['own']:,.0f} MiB, of the file {way['file']:,.0f} "
            f"MiB; one query {1000 * way['one']:.2f} ms, 100 queries {1000 * way['hundred']:.0f} ms",
            flush=True,
        )
    for point in step("recall")["points"]:
        label = f"{point['name']} {point['value']}" if point["name"] else "exhaustive"
        star = "*" if point["chosen"] else " "
        print(f"  {star} recall@{K} {point['recall']:.3f}  {1000 * point['one']:8.2f} ms  {label}", flush=True)


def build(arguments: argparse.Namespace) -> dict[str, Any]:
    """`build_index`, its stages timed from outside."""
    from clzoo.index import building

    importlib.import_module("faiss")
    store = clzoo.open_store(arguments.folder)
    before, seconds = peak(), dict.fromkeys(("trained", "filled", "tuned_recall", "write_index"), 0.0)
    for name in seconds:
        setattr(building, name, timed(getattr(building, name), name, seconds))
    started = time.monotonic()
    index = clzoo.build_index(store, factory=arguments.factories[0])
    return {
        "total": time.monotonic() - started,
        "fill": seconds["trained"] + seconds["filled"],
        "recall": seconds["tuned_recall"],
        "write": seconds["write_index"],
        "memory": peak() - before,
        "size": index.description["index"]["size"] / 2**20,
        "recall_at_10": index.description["recall_at_10"],
    }


def opened(arguments: argparse.Namespace) -> dict[str, Any]:
    """Opening, searching, and the memory after it."""
    importlib.import_module("faiss")
    store = clzoo.open_store(arguments.folder)
    with np.load(arguments.folder / STATE) as state:
        queries = state["queries"]
    assert len(store.paths) == len(store.labels)  # read now, not at the first search
    before = memory()
    started = time.monotonic()
    index = open_index(store, mmap=arguments.mmap)
    seconds = time.monotonic() - started
    for query in queries[-10:]:
        search(index, query, K)
    own, file = (now - then for now, then in zip(memory(), before, strict=True))
    one = statistics.median(lasted(lambda query=query: search(index, query, K)) for query in queries[:30])
    hundred = min(lasted(lambda: search(index, queries[:100], K)) for _ in range(3))
    return {"open": seconds, "own": own, "file": file, "one": one, "hundred": hundred}


def recall(arguments: argparse.Namespace) -> dict[str, Any]:
    """Recall of the held-out queries and latency of one, at each effort."""
    from clzoo.index.recall import _efforts

    index = open_index(arguments.folder)
    with np.load(arguments.folder / STATE) as state:
        queries, truth = state["queries"], state["truth"]
    owner, name, most = next(iter(_efforts(index.faiss)), (None, "", 0))  # of a refined index k_factor
    chosen = getattr(owner, name) if owner is not None else 0
    points = []
    for value in sorted({chosen, *(effort for effort in EFFORTS.get(name, ()) if effort <= most)}):
        if owner is not None:
            setattr(owner, name, value)
        found = index.faiss.search(queries, K)[1]
        share = np.mean([len(set(row) & set(true)) / K for row, true in zip(found, truth, strict=True)])
        one = statistics.median(
            lasted(lambda query=query: index.faiss.search(query[None], K)) for query in queries[:30]
        )
        points.append({"name": name, "value": value, "recall": share, "one": one, "chosen": value == chosen})
    return {"points": points}


def generate(folder: Path, count: int) -> None:
    """The store, queries, and their exact neighbors."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    spread = np.arange(1, DIM + 1, dtype=np.float32) ** -0.5  # standard deviation of each axis
    axes = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0].astype(np.float32)
    groups = rng.normal(size=(GROUPS, 1, DIM)).astype(np.float32)
    centers = (groups + 0.7 * rng.normal(size=(GROUPS, CLUSTERS, DIM)).astype(np.float32)).reshape(-1, DIM)
    sizes = rng.pareto(1.5, len(centers)) + 0.2
    sizes /= sizes.sum()

    def draw(number: int) -> tuple[np.ndarray, np.ndarray]:
        clusters = rng.choice(len(centers), number, p=sizes)
        rows = ((centers[clusters] + rng.standard_normal((number, DIM), np.float32)) * spread) @ axes
        return clusters, rows / np.linalg.norm(rows, axis=1, keepdims=True)

    own, queries = draw(QUERIES)
    vectors, clusters = VectorFile(folder, DIM, "float16"), []
    for start in range(0, count, CHUNK):
        drawn, rows = draw(min(CHUNK, count - start))
        clusters.append(drawn)
        vectors.append(rows)
    paths = [f"{number:08d}.jpg" for number in range(count)]
    columns = {
        "row": np.arange(count), "id": item_ids(paths), "path": paths, "size": np.ones(count, np.int64),
        "mtime_ns": np.ones(count, np.int64), "label": pa.nulls(count, pa.string()),
    }  # fmt: skip
    writer = StoreWriter(folder, empty_manifest(folder), errors=None)
    writer.commit((writer.add_segment(vectors, pa.table(columns, schema=ITEMS_SCHEMA)),), [], complete=True)
    store = clzoo.open_store(folder)
    truth = exact(store, queries)
    near = np.concatenate(clusters)[truth]  # (Q, K)
    facts = {"same": np.mean(near[:, 0] == own), "clusters": np.mean([len(set(row)) for row in near])}
    temporary = folder / f"new-{STATE}"
    np.savez(temporary, queries=queries, truth=store.ids[truth], **facts)
    temporary.replace(folder / STATE)


def exact(store: Store, queries: np.ndarray) -> np.ndarray:
    """Rows of the K nearest of each query, best first, (Q, K)."""
    faiss = importlib.import_module("faiss")
    scores, rows = np.full((len(queries), K), -np.inf, np.float32), np.zeros((len(queries), K), np.int64)
    for part, vectors in normalized_batches(store):
        new_scores, new = faiss.knn(queries, vectors, K, metric=faiss.METRIC_INNER_PRODUCT)
        scores, rows = np.concatenate([scores, new_scores], 1), np.concatenate([rows, new + part.start], 1)
        best = np.argsort(-scores, axis=1)[:, :K]
        scores, rows = np.take_along_axis(scores, best, 1), np.take_along_axis(rows, best, 1)
    return rows


def empty_manifest(folder: Path) -> Manifest:
    return Manifest(
        generation=0, complete=False, root=str(folder), model="generated", load="generated", weights_sha256="0" * 64,
        preprocessing=vars(Preprocessing()), dim=DIM, dtype="float16", normalized=True, labels=False, compute=("fp32",),
        rows=0, errors=0, errors_generation=0, segments=(), source=str(folder),
    )  # fmt: skip


def timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def run(*arguments: Any, **options: Any) -> Any:
        started = time.monotonic()
        try:
            return function(*arguments, **options)
        finally:
            seconds[name] += time.monotonic() - started

    return run


def lasted(run: Callable[[], Any]) -> float:
    """Seconds; on one thread those of the processor, which other work on the machine disturbs less."""
    clock = time.process_time if os.environ.get("OMP_NUM_THREADS") == "1" else time.perf_counter
    started = clock()
    run()
    return clock() - started


def peak() -> float:
    """Peak resident memory of this process, MiB. Not ru_maxrss, which counts the process that started this one."""
    return status("VmHWM")


def memory() -> tuple[float, float]:
    """Resident memory of this process now, MiB: its own, and pages of files."""
    return status("RssAnon"), status("RssFile")


def status(key: str) -> float:
    """One figure of /proc/self/status, MiB; so this runs on Linux."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key)) / 1024


if __name__ == "__main__":
    main()
