"""SIGKILL at random instants, over everything that writes: `python tests/kill_everything.py --kills 200`.

Each trial forks a process that runs one command, kills it at a random instant, looks at what is there as a reader does,
runs the same command to its end, and compares the result with that of a run that nobody killed: the same content, the
same names of files, nothing left behind. Prints the seed, and per command how many kills hit a living process. Exit
code 1 if anything was found. The commands are called as Python functions: starting Python takes longer than they do.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import logging
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

TESTS = Path(__file__).resolve().parent
sys.path[:0] = [str(TESTS.parent), str(TESTS), str(TESTS / "embed"), str(TESTS / "pretrain")]

from fake_checkpoints import SHIPPED, FakeZoo, shrunk  # noqa: E402
from pictures import make_images  # noqa: E402
from small_models import small_encoder  # noqa: E402
from small_recipes import small_recipe  # noqa: E402

import clzoo  # noqa: E402
from clzoo import assets, build_index, embed_folder, open_store  # noqa: E402
from clzoo.embed import compact_store, merge_stores  # noqa: E402
from clzoo.embed import run as run_module  # noqa: E402
from clzoo.embed.copying import copy_store  # noqa: E402
from clzoo.embed.manifest import MANIFEST  # noqa: E402
from clzoo.embed.shares import Share  # noqa: E402
from clzoo.errors import ClzooError  # noqa: E402
from clzoo.evaluation import evaluate  # noqa: E402
from clzoo.index import open_index  # noqa: E402
from clzoo.index.files import INDEX_FILE  # noqa: E402
from clzoo.pretrain.checkpoint import load_checkpoint  # noqa: E402
from clzoo.pretrain.loop import pretrain  # noqa: E402
from clzoo.publish import publish  # noqa: E402
from clzoo.zoo import converted  # noqa: E402
from clzoo.zoo.pushing import _checked_entry  # noqa: E402

ENTRY = "simclr-tiny-animals"


@dataclass(frozen=True)
class Victim:
    """A command that is killed.

    Attributes:
        name: as it is typed.
        before: copied to where the command works; None for nothing.
        act: runs the command on that place.
        look: what a reader finds there, as plain values; raises if it is not whole. Of nothing: None.
    """

    name: str
    before: Path | None
    act: Callable[[Path], object]
    look: Callable[[Path], Any]


def forked(action: Callable[[], object], kill_after: float | None = None) -> tuple[int, float]:
    """Run the action in a child; its exit code (-9 for killed), and how long it took."""
    started = time.monotonic()
    if (child := os.fork()) == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    if kill_after is not None:
        time.sleep(kill_after)
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, time.monotonic() - started


def digest(array: Any) -> str:
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()


# What a reader finds ----------------------------------------------------------------------------------------------


def rows_of(folder: Path) -> dict[str, str] | None:
    """The vector of each path of a store."""
    if not (folder / MANIFEST).exists():
        return None
    store = open_store(folder)
    vectors = store.raw_rows(np.arange(len(store)))
    assert len(set(store.paths)) == len(store)
    return {path: digest(vector) for path, vector in zip(store.paths, vectors, strict=True)}


def index_of(folder: Path) -> dict[str, Any] | None:
    if not (folder / INDEX_FILE).exists():
        return None
    index = open_index(folder)
    return {"count": len(index), "of": index.description["store_generation"]}


def model_of(folder: Path) -> dict[str, Any] | None:
    models = converted.cached(folder)
    return {model.folder.name: clzoo.proof.weights_sha256(load_file(model.weights)) for model in models} or None


def run_of(folder: Path) -> dict[str, Any] | None:
    state = load_checkpoint(folder) if folder.exists() else None
    if state is None or state["step"] < json.loads((folder / "state.json").read_text())["steps"]:
        return None
    return {name: digest(tensor) for name, tensor in state["method"].items()}


def entry_of(folder: Path) -> dict[str, Any] | None:
    """Texts and tensors of an entry, after every check that a push makes."""
    with contextlib.suppress(ClzooError):
        clzoo.load(folder, "cpu")  # finishes a replacement that was cut off
    if not folder.exists():
        return None
    clzoo.load(folder, "cpu")
    _checked_entry(folder)
    texts = {name: (folder / name).read_text() for name in ("config.json", "recipe.yaml", "metrics.json")}
    tensors = [load_file(folder / f"{name}.safetensors") for name in ("model", "pretrain")]
    return {**texts, **{name: digest(tensor) for part in tensors for name, tensor in part.items()}}


# The commands -----------------------------------------------------------------------------------------------------


def prepare(root: Path) -> list[Victim]:
    """Inputs, and the commands that work on them; everything is computed in children."""
    run_module.FLUSH_ROWS = 8
    encoder = small_encoder()
    encoder.weights_sha256  # noqa: B018 (computed once, before the forks)
    images = make_images(root / "images", 40)
    changed = make_images(root / "changed", 44, seed=1)
    for number in range(0, 30, 2):
        shutil.copy2(images / f"cats/{number:03d}.jpg", changed / f"cats/{number:03d}.jpg")
    labelled = root / "animals"
    for split, seed in (("train", 2), ("test", 3)):
        make_images(labelled / split, 40, seed=seed)
    (root / "zoo").mkdir()
    zoo = FakeZoo(root / "zoo", shrunk(SHIPPED["hydra-vit_base-in1k"]))
    assets.HUB = zoo.hub
    recipes = [small_recipe("simclr_cifar10", f"seed={seed}", "schedule.epochs=2") for seed in (0, 1)]

    def embed(source: Path, out: Path, **options: Any) -> None:
        embed_folder(source, encoder, out, batch_size=4, workers=2, progress=False, **options)

    def make_inputs() -> None:
        embed(images, root / "store")
        shutil.copytree(root / "store", root / "updated")
        run_module.CHEAP_MERGE, run_module.MERGE_SHARE = 0, 0
        shutil.copytree(images, root / "more")
        embed(root / "more", root / "segments")
        for number in range(3):
            (root / "more" / f"cats/{2 * number:03d}.jpg").unlink()
        shutil.copy2(changed / "cats/040.jpg", root / "more" / "cats/new.jpg")
        embed(root / "more", root / "segments")
        assert len(open_store(root / "segments").manifest.segments) > 1
        for number in (1, 2):
            embed(images, root / "shares", share=Share(number, 2))
        for number, recipe in enumerate(recipes):
            pretrain(recipe, labelled, root / f"run-{number}", device="cpu")
            found = evaluate(root / f"run-{number}", labelled, "knn", device="cpu").metrics
            (root / f"measured-{number}.json").write_text(json.dumps(found))
        publish_run(0, root / "entry")
        copy_store(str(root / "store"), (root / "remote").as_uri())

    def publish_run(number: int, out: Path) -> None:
        measured = root / f"measured-{number}.json"
        publish(root / f"run-{number}", ENTRY, labelled, out, measured=measured, device="cpu", overwrite=True)

    def update(place: Path) -> None:
        embed(changed, place, allow_removals=True)

    code, _ = forked(make_inputs)
    if code:
        raise SystemExit("the inputs could not be made")
    # An update is of another source under the manifest's name: the old one is named as gone.
    manifest = json.loads((root / "updated" / MANIFEST).read_text())
    (root / "updated" / MANIFEST).write_text(json.dumps({**manifest, "source": str(root / "gone")}))
    shares = [Share(number, 2).folder(root / "shares") for number in (1, 2)]
    remote = (root / "remote").as_uri()
    return [
        Victim("embed", None, lambda place: embed(images, place), rows_of),
        Victim("update", root / "updated", update, rows_of),
        Victim("index", root / "store", build_index, index_of),
        Victim("copy to a URL", None, lambda place: copy_store(str(root / "store"), place.as_uri()), rows_of),
        Victim("copy from a URL", None, lambda place: place.exists() or copy_store(remote, str(place)), rows_of),
        Victim("compact", root / "segments", compact_store, rows_of),
        Victim("merge", None, lambda place: merge_stores(place, shares), rows_of),
        Victim("load", None, lambda place: load(zoo, place), model_of),
        Victim("pretrain", None, lambda place: pretrain(recipes[0], labelled, place, device="cpu"), run_of),
        Victim("publish", None, lambda place: publish_run(1, place), entry_of),
        Victim("publish over", root / "entry", lambda place: publish_run(1, place), entry_of),
    ]


def load(zoo: FakeZoo, place: Path) -> None:
    place.mkdir(exist_ok=True)
    if not (place / "hub").exists():
        (place / "hub").symlink_to(zoo.cache / "hub")
    clzoo.load(zoo.config.name, "cpu", cache_dir=place, offline=True)


# Killing ----------------------------------------------------------------------------------------------------------


def start(victim: Victim, folder: Path) -> Path:
    """A new place for the command, alone in a folder of its own."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    if victim.before is not None:
        shutil.copytree(victim.before, folder / "place")
    return folder / "place"


def shape(folder: Path) -> list[str]:
    """Names of all that lies below a folder, without the numbers of generations."""
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    plain = ("".join("N" if char.isdigit() else char for char in name) for name in names if "tensorboard" not in name)
    return sorted("".join(c for i, c in enumerate(n) if c != "N" or n[i - 1 : i] != "N") for n in plain)


def trial(victim: Victim, root: Path, seconds: float, expected: tuple[Any, list[str]], kills: int) -> tuple[int, str]:
    """Kill so often, then let it end; (kills that hit, what was found wrong)."""
    place = start(victim, root / "trial")
    before = victim.look(place) if victim.before is not None else None
    hits = 0
    try:
        for _ in range(kills):
            code, _ = forked(lambda: victim.act(place), kill_after=random.uniform(0, seconds))
            hits += code == -signal.SIGKILL
            if code not in (0, -signal.SIGKILL):
                return hits, "the command was refused"
            found = victim.look(place)
            if victim.look is rows_of:  # a store under way may hold a part of its rows
                known = {**(before or {}), **expected[0]}
                alive = found or {}
                if any(alive[path] not in (known.get(path), (before or {}).get(path)) for path in alive):
                    return hits, "a row is wrong after the kill"
            elif found not in (None, before, expected[0]):
                return hits, "a reader found a mixture"
        code, _ = forked(lambda: victim.act(place))
        if code:
            return hits, "the same command was refused after the kill"
        if (end := victim.look(place)) != expected[0]:
            differing = sorted(key for key in {*end, *expected[0]} if end.get(key) != expected[0].get(key))
            return hits, f"the end differs from an uninterrupted run: {differing}"
        if (left := shape(root / "trial")) != expected[1]:
            return hits, f"files differ: {sorted(set(left) ^ set(expected[1])) or left}"
    except Exception as error:
        return hits, f"{type(error).__name__}: {error}"
    return hits, ""


def attack(kills: int, seed: int, root: Path, only: str | None = None) -> list[str]:
    """Kill `kills` times, evenly over the commands; returns what was found."""
    random.seed(seed)
    torch.set_num_threads(1)  # no pool of threads that a fork would lack
    logging.disable(logging.CRITICAL)
    victims = [victim for victim in prepare(root) if only in (None, victim.name)]
    findings = []
    for number, victim in enumerate(victims):
        place = start(victim, root / "whole")
        durations = [forked(lambda place=place, victim=victim: victim.act(place))]
        assert durations[0][0] == 0, f"{victim.name} fails without being killed"
        expected = victim.look(place), shape(root / "whole")
        wanted = kills // len(victims) + (number < kills % len(victims))
        done = hits = wrong = 0
        while done < wanted:
            times = min(random.choice((1, 1, 2, 3)), wanted - done)
            hit, finding = trial(victim, root, durations[0][1], expected, times)
            done, hits = done + times, hits + hit
            if finding:
                wrong += 1
                findings.append(f"{victim.name}: {finding}")
        print(f"{victim.name:16} {done:4} kills, {hits:4} of a living process, {wrong} findings", flush=True)
    return findings


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", help="one command, by its name in the table")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="clzoo-kills-") as folder:
        findings = attack(arguments.kills, arguments.seed, Path(folder), arguments.only)
    print("\n".join(findings) or "nothing was found")
    raise SystemExit(bool(findings))


if __name__ == "__main__":
    main()
