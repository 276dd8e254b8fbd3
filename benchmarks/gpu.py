"""All that a GPU is needed for, in order of value, each part in a process of its own and written down when it ends.

    bash benchmarks/gpu.sh --images photographs.tar --out gpu-results      # meant for 25 minutes of one H100
    bash benchmarks/gpu.sh --images photographs.tar --out gpu-results      # again: only what is missing
    bash benchmarks/gpu.sh --only views steps --out gpu-results
    bash benchmarks/gpu.sh --rehearse                                      # on a CPU, small: whether it runs
    python benchmarks/gpu.py --table gpu-results                           # the figures into docs/performance.md

Each part writes OUT/<part>.json: command, exit code, seconds, hardware, versions and what was printed. A part that
fails is named, the others still run, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from clzoo.files import read_json, write_json, write_text
from clzoo.hardware import describe_hardware, describe_versions

ROOT = Path(__file__).resolve().parent.parent
PARTS = ("tests", "views", "steps", "methods", "embed", "parity", "search")
METHODS = ("mocov2", "simclr", "hydra", "cacr", "reco", "potential_samples", "supcon", "mocov3")
REHEARSED = ["backbone.name=resnet10_w16", "schedule.batch_size=16", "backbone.batchnorm_groups=1", "compile=false"]
LEAST_COSINE = {"fp32": 0.9999, "bf16": 0.99}  # of an embedding on the GPU with that of the CPU in fp32
BEGIN, END = "<!-- gpu: written by benchmarks/gpu.py -->\n", "<!-- end of gpu -->"


def main() -> None:
    arguments = parse()
    if arguments.table is not None:
        fill_document(arguments.table)
        return
    if not arguments.rehearse and not torch.cuda.is_available():
        sys.exit("there is no CUDA device here. To see that everything starts: bash benchmarks/gpu.sh --rehearse")
    out = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    failed = []
    with tempfile.TemporaryDirectory() as place:
        images = arguments.images or made_up_photographs(Path(place) / "photographs", 12 if arguments.rehearse else 240)
        for part, commands in parts(images, Path(place), rehearse=arguments.rehearse).items():
            if arguments.only and part not in arguments.only:
                continue
            if is_there(out / f"{part}.json", rehearsal=arguments.rehearse):
                print(f"{part}: there already")
                continue
            found = measured(commands, "cpu" if arguments.rehearse else "cuda", arguments.minutes)
            write_json(out / f"{part}.json", {"part": part, "rehearsal": arguments.rehearse, **found})
            print(f"{part}: {'done' if found['returncode'] == 0 else 'FAILED'} in {found['seconds']:.0f} s", flush=True)
            if found["returncode"] != 0:
                failed.append(part)
                print("\n".join(found["output"].splitlines()[-20:]), flush=True)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}; the whole output is in {out}/<part>.json")


def is_there(path: Path, *, rehearsal: bool) -> bool:
    """Whether a part ended well; a rehearsal is no measurement."""
    if not path.exists():
        return False
    found = read_json(path)
    return bool(found["returncode"] == 0 and found["rehearsal"] == rehearsal)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="photographs: a folder or a .tar (default: made up)")
    parser.add_argument("--out", type=Path, default=Path("gpu-results"))
    parser.add_argument("--only", nargs="+", choices=PARTS, metavar="PART", help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=9.5, help="the most that a part may take (default 9.5)")
    parser.add_argument("--rehearse", action="store_true", help="on a CPU, as small as can be")
    parser.add_argument("--table", type=Path, metavar="DIR", help="write the results of DIR into docs/performance.md")
    parser.add_argument("--step", choices=("parity", "search"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.step == "parity":
        sys.exit(parity(arguments.images, small=arguments.rehearse))
    if arguments.step == "search":
        sys.exit(search(small=arguments.rehearse))
    return arguments


def parts(images: Path, place: Path, *, rehearse: bool) -> dict[str, list[list[str]]]:
    """Part -> its commands, behind `python`; `place` is a folder for what they need."""
    small = ["--rehearse"] if rehearse else []
    step = ["benchmarks/train_step.py", *(["--steps", "1", "--rounds", "1"] if rehearse else [])]
    large = ["--recipe", "simclr_in1k", "--set", f"schedule.batch_size={4 if rehearse else 256}"]
    on_moco = ["--recipe", "mocov2_cifar10"]  # whose loss is in the compiled region
    return {
        "tests": [["-m", "pytest", "-q", "-m", "gpu", *(["--collect-only"] if rehearse else [])]],
        "views": [["benchmarks/augment.py", *(["--rounds", "1"] if rehearse else [])]],
        "steps": [step, [*step, *large], *([] if rehearse else [[*step, "--compile", *on_moco]])],
        "methods": [[*step, "--recipe", recipe] for recipe in method_recipes(place, rehearse=rehearse)],
        "embed": [
            [
                "benchmarks/embed.py",
                "--images",
                str(images),
                *(["--models", "resnet10t", "--count", "12", "--rounds", "1"] if rehearse else []),
            ]
        ],
        "parity": [["benchmarks/gpu.py", "--step", "parity", "--images", str(images), *small]],
        "search": [["benchmarks/gpu.py", "--step", "search", *small]],
    }


def method_recipes(folder: Path, *, rehearse: bool) -> list[str]:
    """The CIFAR-10 recipe of every method; for the rehearsal the same ones with a tiny network, as files."""
    names = [f"{method}_cifar10" for method in METHODS]
    if not rehearse:
        return names
    from clzoo.pretrain.recipe_files import find_recipe, load_recipe

    for name in names:
        recipe = find_recipe(name)
        changes = list(REHEARSED)
        if "queue:" in recipe.read_text():
            changes.append("method.queue=64")
        if "group:" in recipe.read_text():
            changes.append("method.group=16")
        write_text(folder / recipe.name, load_recipe(recipe, tuple(changes)).to_yaml())
    return [str(folder / f"{name}.yaml") for name in names]


def measured(commands: list[list[str]], device: str, minutes: float) -> dict[str, Any]:
    """Run commands one after the other; the first that fails ends it."""
    output, code, started = "", 0, time.monotonic()
    for command in commands:
        left = 60 * minutes - (time.monotonic() - started)
        try:
            done = subprocess.run(
                [sys.executable, *command], cwd=ROOT, text=True, timeout=max(left, 1),
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
            )  # fmt: skip
            text, code = done.stdout, done.returncode
        except subprocess.TimeoutExpired as late:
            text, code = _text(late.stdout) + f"\nstopped after {minutes} minutes", 124
        output += f"$ python {' '.join(command)}\n{text}"
        if code != 0:
            break
    return {
        "commands": [" ".join(["python", *command]) for command in commands],
        "returncode": code,
        "seconds": round(time.monotonic() - started, 1),
        "hardware": describe_hardware(device),
        "versions": describe_versions(),
        "output": output,
    }


def _text(output: bytes | str | None) -> str:
    return output.decode(errors="replace") if isinstance(output, bytes) else output or ""


def made_up_photographs(folder: Path, count: int) -> Path:
    """JPEG files of 500 x 375, smooth enough to compress like photographs."""
    folder.mkdir(parents=True)
    random = np.random.default_rng(0)
    for number in range(count):
        coarse = Image.fromarray(random.integers(0, 256, (24, 32, 3), np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number:04}.jpg", quality=90)
    return folder


# Parts that have no file of their own --------------------------------------------------------------------------------


def parity(images: Path, *, small: bool) -> int:
    """Embeddings of the same pictures on the CPU and on the GPU: cosines and differences, fp32 and bf16."""
    from embed import unpacked  # of this folder

    import clzoo
    from clzoo.data.sources import list_images
    from clzoo.embed import DEFAULT_MODEL

    names = [DEFAULT_MODEL, "cacr-resnet18_w16-cifar10"][: 1 if small else 2]
    device, good = ("cpu" if small else "cuda"), True
    for name in names:
        reader, encoder = clzoo.load(name, "cpu"), clzoo.load(name, device)
        with tempfile.TemporaryDirectory() as place:
            paths = [item.file for item in list_images(unpacked(images, Path(place))).items[:120]]
            pixels = torch.from_numpy(np.stack([reader.pixels(path) for path in paths]))  # (N, S, S, 3)
        reference = reader.encode(pixels, dtype="fp32")
        for dtype, least in LEAST_COSINE.items():
            if dtype == "bf16" and device == "cpu":
                continue
            found = encoder.encode(pixels, dtype=dtype).cpu()
            cosine = torch.nn.functional.cosine_similarity(found, reference, dim=1)  # (N,)
            print(f"{name}: {device} {dtype} against cpu fp32, {len(paths)} pictures: least cosine {cosine.min():.6f}, "
                  f"largest difference {(found - reference).abs().max():.2e}")  # fmt: skip
            good = good and bool((cosine > least).all())  # which no NaN is
    return 0 if good else 1


def search(*, small: bool) -> int:
    """Exact search of fp16 vectors: milliseconds a query alone and in a batch of 1,000, on the CPU and on the GPU.

    Best of three each.
    """
    from clzoo.neighbors import nearest

    count, dim = (2_000, 64) if small else (1_000_000, 512)
    random = np.random.default_rng(0)
    bank = torch.from_numpy(random.standard_normal((count, dim), dtype=np.float32))
    bank = torch.nn.functional.normalize(bank, dim=1).half()
    queries = bank[:: max(1, count // 1000)][:1000].float() + 0.01
    similarities = {}
    for device in ["cpu"] if small else ["cuda", "cpu"]:
        moved, some = bank.to(device), queries.to(device)
        for batch in (1, len(some)):
            taken = []
            for _ in range(1 if small else 4):  # the first warms up
                started = time.perf_counter()
                found = nearest(moved, some[:batch], 10)[0].cpu()
                taken.append(time.perf_counter() - started)
            print(f"{count:,} x {dim} on {device}, {batch} queries at once: {1000 * min(taken) / batch:.2f} ms a query")
        similarities[device] = found  # (1000, 10); rows as near as each other may come in another order
    first = next(iter(similarities.values()))
    same = all(torch.allclose(found, first, rtol=0, atol=1e-5) for found in similarities.values())
    print("equally near neighbors on each device" if same else "OTHER NEIGHBORS")
    return 0 if same else 1


# The document --------------------------------------------------------------------------------------------------------


def fill_document(folder: Path) -> None:
    """Put what the parts printed between the markers of docs/performance.md, with hardware and date."""
    document = ROOT / "docs" / "performance.md"
    text = document.read_text()
    head, rest = text.split(BEGIN)
    blocks = []
    for path in sorted(folder.glob("*.json")):
        found = read_json(path)
        if found["rehearsal"]:
            sys.exit(f"{path} is of a rehearsal, which measures nothing.")
        state = "" if found["returncode"] == 0 else " (failed)"
        blocks.append(f"\n**{found['part']}**{state}, {found['hardware']}, torch {found['versions']['torch']}:\n\n")
        blocks.append("```\n" + found["output"].strip() + "\n```\n")
    write_text(document, head + BEGIN + "".join(blocks) + "\n" + END + rest.split(END)[1])
    print(json.dumps({"document": str(document), "parts": len(blocks) // 2}))


if __name__ == "__main__":
    main()
