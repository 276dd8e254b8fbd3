"""The odd images that Pillow is tested with, each decoded by clzoo: a picture or a reason, and nothing else.

    pip download --no-binary :all: --no-deps pillow==VERSION
    python benchmarks/odd_images.py --pillow-source pillow-VERSION.tar.gz     # two minutes on two cores, 0.2 GB of disk

The source package of Pillow holds about a thousand files (`Tests/images`): every mode and depth, damaged headers,
decompression bombs, crashes of the past, PostScript. Each goes through clzoo's decoder in a process of its own. Then
all of them, called `.jpg`, are embedded by `clzoo embed` with a model that comes with clzoo, while the PATH leads to a
`gs` (and others) that would leave a mark. It is a fault if a file

    starts a process, or ends its own
    takes more than 2 GB or 20 seconds
    gives neither a picture nor a reason
    is embedded by the command and refused by the decoder, or the other way round

Exit code 1 if there is one. `--list` prints what became of every file. Needs fork (Linux, macOS).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import select
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from clzoo.config import Preprocessing
from clzoo.embed.store import open_store
from clzoo.errors import UnreadableImageError
from clzoo.images import decode_image
from clzoo.transform import resize_and_crop

MAX_SECONDS, MAX_BYTES = 20.0, 2 << 30
MODEL = "supcon-resnet10_w32-tiny"
PROGRAMS = ("gs", "djpeg", "cjpeg", "ppmquant", "ppmtogif", "display", "xdg-open")
"""Programs that some part of Pillow starts."""

_FOLDER = "/Tests/images/"
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn")  # events of sys.audit


@dataclass(frozen=True)
class Outcome:
    """What became of one file."""

    name: str
    reason: str | None  # None: it was decoded
    faults: tuple[str, ...]
    seconds: float
    peak: int  # bytes of memory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pillow-source", type=Path, required=True, metavar="FILE", help="pillow-VERSION.tar.gz")
    parser.add_argument("--list", action="store_true", help="print what became of every file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        faults = run(options.pillow_source, Path(folder), everything=options.list)
    sys.exit(bool(faults))


def run(archive: Path, folder: Path, *, everything: bool = False) -> list[str]:
    """Try all images of the archive, unpacked below `folder`; prints a report and returns the faults."""
    names = unpack(archive, folder / "images")
    outcomes = [attempt(folder / "images" / file, name) for file, name in names.items()]
    if everything:
        for outcome in outcomes:
            print(f"{outcome.name}: {outcome.reason or 'decoded'}")
    decoded = sum(outcome.reason is None for outcome in outcomes)
    slowest, largest = (max(outcomes, key=key) for key in (lambda o: o.seconds, lambda o: o.peak))
    print(f"{len(outcomes)} files: {decoded} decoded, {len(outcomes) - decoded} refused with a reason")
    print(
        f"slowest: {slowest.name}, {slowest.seconds:.1f} s; most memory: {largest.name}, {largest.peak / 2**20:.0f} MiB"
    )
    faults = [f"{outcome.name}: {fault}" for outcome in outcomes for fault in outcome.faults]
    faults += embed(folder, names, outcomes)
    print("\n".join(faults) or "no faults")
    return faults


def unpack(archive: Path, folder: Path) -> dict[str, str]:
    """Write the images of the archive as `folder/<number>.jpg`: that name -> the name in the archive."""
    folder.mkdir(parents=True)
    names = {}
    with tarfile.open(archive) as source:
        for member in source:
            if member.isfile() and _FOLDER in member.name:
                file = f"{len(names):04}.jpg"
                content = source.extractfile(member)
                assert content is not None
                (folder / file).write_bytes(content.read())
                names[file] = member.name.partition(_FOLDER)[2]
    if not names:
        sys.exit(f"{archive} holds no {_FOLDER[1:]}: expected the source package, pillow-VERSION.tar.gz.")
    return names


# One file, in a process of its own ------------------------------------------------------------------------------------


def attempt(path: Path, name: str) -> Outcome:
    """Decode and resize one file in a forked process, and watch it."""
    reading, writing = os.pipe()
    started = time.monotonic()
    if (child := os.fork()) == 0:
        os.close(reading)
        _decode_and_report(path, writing)
    os.close(writing)
    answer, late = b"", False
    while True:
        left = started + MAX_SECONDS - time.monotonic()
        if not select.select([reading], [], [], max(left, 0))[0]:
            late = True
            os.kill(child, signal.SIGKILL)
            break
        if not (part := os.read(reading, 1 << 16)):
            break
        answer += part
    os.close(reading)
    _, status, usage = os.wait4(child, 0)
    seconds, peak = time.monotonic() - started, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    report = json.loads(answer) if answer else {"reason": "the process ended", "started": []}
    faults = [f"starts a process: {what}" for what in report["started"]]
    if late:
        faults.append(f"takes more than {MAX_SECONDS:.0f} s")
    elif os.WIFSIGNALED(status) or not answer:
        faults.append(f"ends the process (status {status})")
    elif report["reason"] == "":
        faults.append("is refused without a reason")
    if peak > MAX_BYTES:
        faults.append(f"takes {peak / 2**30:.1f} GiB")
    return Outcome(name, report["reason"], tuple(faults), seconds, peak)


def _decode_and_report(path: Path, writing: int) -> None:
    """In the forked process: JSON of the reason (null: decoded) and of the processes that were started; then exit."""
    started: list[str] = []
    sys.addaudithook(lambda event, arguments: started.append(f"{event} {arguments}") if event in _STARTS else None)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # warnings
    reason = None
    try:
        pixels = resize_and_crop(decode_image(path), Preprocessing())
        if pixels.shape != (224, 224, 3) or pixels.dtype != np.uint8:
            reason = ""
    except UnreadableImageError as error:
        reason = str(error)
    os.write(writing, json.dumps({"reason": reason, "started": started}).encode())
    os._exit(0)


# All of them, by the command ------------------------------------------------------------------------------------------


def embed(folder: Path, names: dict[str, str], outcomes: list[Outcome]) -> list[str]:
    """`clzoo embed` of all files; the faults, by comparison with what the decoder made of each."""
    mark, programs = folder / "started", folder / "programs"
    programs.mkdir()
    for name in PROGRAMS:
        (programs / name).write_text(f'#!/bin/sh\necho {name} "$@" >> "{mark}"\nexit 1\n')
        (programs / name).chmod(0o755)
    command = [sys.executable, "-m", "clzoo", "embed", str(folder / "images"), "--model", MODEL, "--device", "cpu"]
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    started = time.monotonic()
    result = subprocess.run(
        [*command, "--out", str(folder / "store"), "--quiet"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"clzoo embed: {time.monotonic() - started:.0f} s, {peak / 2**20:.0f} MiB at most, torch included")
    if result.returncode:
        return [f"clzoo embed ends with {result.returncode}: {result.stderr.strip()[-500:]}"]
    faults = [f"clzoo embed starts {line}" for line in mark.read_text().splitlines()] if mark.exists() else []
    store = open_store(folder / "store")
    embedded = set(store.paths)
    named = {error["path"]: error["reason"] for error in store.errors()}
    for file, outcome in zip(names, outcomes, strict=True):
        if (file in embedded) == (file in named):
            faults.append(f"{outcome.name}: neither embedded nor named, or both")
        elif (file in embedded) != (outcome.reason is None):
            faults.append(f"{outcome.name}: clzoo embed says {named.get(file)}, the decoder {outcome.reason}")
        elif file in named and not named[file]:
            faults.append(f"{outcome.name}: named without a reason")
    return faults


if __name__ == "__main__":
    main()
