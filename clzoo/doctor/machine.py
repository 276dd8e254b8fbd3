"""Decoding and its speed, threads and their limits, caches and disks, the Hub."""

from __future__ import annotations

import io
import math
import os
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from clzoo.doctor.finding import Finding, note, ok, problem
from clzoo.wording import clzoo_command

LOW_DISK = 5 << 30
"""Bytes: a converted ViT-Base with its published file takes about one GiB, features of ImageNet some more."""

_CODECS = {"jpg": "JPEG", "zlib": "PNG", "webp": "WebP", "avif": "AVIF", "jpg_2000": "JPEG 2000", "libtiff": "TIFF"}
_CGROUP = Path("/sys/fs/cgroup")
_WIDTH, _HEIGHT, _QUALITY = 500, 375, 90  # the usual photograph of ImageNet
_MEASURE = 0.5  # seconds

# Decoding ---------------------------------------------------------------------------------------------------------


def image_codecs() -> dict[str, str | bool]:
    """What this Pillow can decode, its version ("pillow") and whether its JPEG library is libjpeg-turbo ("turbo")."""
    import PIL
    from PIL import features

    codecs: dict[str, str | bool] = {name: bool(features.check(codec)) for codec, name in _CODECS.items()}
    return {**codecs, "pillow": PIL.__version__, "turbo": bool(features.check_feature("libjpeg_turbo"))}


def photograph_like_jpeg() -> bytes:
    """A JPEG of 500 x 375 whose spectrum falls as that of photographs (amplitude 1 / frequency); always the same."""
    import numpy as np
    from PIL import Image

    rng = np.random.default_rng(0)
    fy, fx = np.fft.fftfreq(_HEIGHT)[:, None], np.fft.rfftfreq(_WIDTH)[None, :]
    falling = 1 / np.maximum(np.hypot(fy, fx), 1 / _WIDTH)
    channels = []
    for _ in range(3):
        spectrum = falling * np.exp(2j * np.pi * rng.random(falling.shape))
        wave = np.fft.irfft2(spectrum, (_HEIGHT, _WIDTH))
        channels.append(128 + 45 * wave / wave.std())
    mean = sum(channels) / 3
    pixels = np.stack([mean + 0.3 * (channel - mean) for channel in channels], axis=-1)  # colors go together
    content = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(content, "JPEG", quality=_QUALITY)
    return content.getvalue()


def decode_speed() -> float:
    """Images a second that one thread decodes with Pillow here: median over half a second."""
    from clzoo.images import decode_image

    content = photograph_like_jpeg()
    times: list[float] = []
    while sum(times) < _MEASURE or len(times) < 5:
        started = time.perf_counter()
        decode_image(content)
        times.append(time.perf_counter() - started)
    return 1 / sorted(times)[len(times) // 2]


def decode_findings(codecs: Mapping[str, str | bool], speed: float) -> list[Finding]:
    """What can be decoded and how fast; `speed` is in images a second on one core."""
    about = f"Pillow {codecs['pillow']}{' with libjpeg-turbo' if codecs['turbo'] else ''}"
    findings = [ok("decode", f"{about}: {speed:.0f} img/s per core ({_WIDTH} x {_HEIGHT} JPEG, measured here)")]
    again = "pip install --force-reinstall --no-cache-dir pillow"
    missing = [name for name in _CODECS.values() if not codecs[name]]
    needed = [name for name in missing if name in ("JPEG", "PNG")]
    if needed:
        findings.append(problem("decode", f"{about} cannot decode {' and '.join(needed)}", again))
    if set(missing) - set(needed):
        others = ", ".join(name for name in missing if name not in needed)
        findings.append(note("decode", f"{about} cannot decode {others}; such files will be named as failures", again))
    if not codecs["turbo"] and not needed:
        findings.append(note("decode", f"{about} without libjpeg-turbo decodes JPEG several times slower", again))
    return findings


# Threads ----------------------------------------------------------------------------------------------------------


def cpu_quota(root: Path = _CGROUP) -> float | None:
    """Cores that the control group may use at once (a container's --cpus); None where it is not limited."""
    try:
        if (root / "cpu.max").is_file():
            quota, period = (root / "cpu.max").read_text().split()[:2]
            return None if quota == "max" else int(quota) / int(period)
        quota = (root / "cpu" / "cpu.cfs_quota_us").read_text()
        period = (root / "cpu" / "cpu.cfs_period_us").read_text()
        return int(quota) / int(period) if int(quota) > 0 else None
    except (OSError, ValueError):
        return None


def memory_limit(root: Path = _CGROUP) -> int | None:
    """Bytes that the control group may use; None where it is not limited."""
    for name in ("memory.max", "memory/memory.limit_in_bytes"):
        try:
            limit = int((root / name).read_text())
        except (OSError, ValueError):  # "max"
            continue
        return limit if limit < 1 << 60 else None  # version 1 writes a huge number for "no limit"
    return None


def thread_findings(
    *, usable: int, quota: float | None, memory: int | None, torch: int | None, env: Mapping[str, str]
) -> list[Finding]:
    """How many threads there should be, and how many there will be.

    Args:
        usable: cores by affinity: as many workers as `clzoo embed` starts.
        quota: cores that the container may use at once.
        memory: bytes that the container may use.
        torch: its threads for one operation; None where torch cannot be imported.
        env: environment variables.
    """
    limits = f"; the container may use {quota:g} cores at once" if quota else ""
    limits += f"; its memory limit is {memory / 2**30:.1f} GiB" if memory else ""
    openmp = env.get("OMP_NUM_THREADS")
    found = f"{usable} cores usable, torch uses {torch or 'unknown'} threads, OMP_NUM_THREADS {openmp or 'not set'}"
    findings = [ok("threads", found + limits)]
    cores = usable if quota is None else min(usable, max(1, math.ceil(quota)))
    if cores < usable:
        found = f"{usable} cores are visible but the container may use {quota:g}: threads would wait for each other"
        embed = clzoo_command("embed", "--workers", cores)
        findings.append(note("threads", found, f"{embed}; export OMP_NUM_THREADS={cores}"))
    if openmp is not None and not (openmp.isdecimal() and int(openmp) > 0):
        found = f"OMP_NUM_THREADS is {openmp!r}; expected a number of threads"
        findings.append(problem("threads", found, f"export OMP_NUM_THREADS={cores}"))
    elif openmp is not None and int(openmp) > cores:
        found = f"OMP_NUM_THREADS is {openmp}, more than {cores} cores: pretraining and searches become slower"
        findings.append(note("threads", found, f"export OMP_NUM_THREADS={cores}"))
    elif openmp is not None and int(openmp) < cores:
        found = (
            f"OMP_NUM_THREADS is {openmp} of {cores} cores: pretraining and searches leave some idle (embed does not)"
        )
        findings.append(note("threads", found, "unset OMP_NUM_THREADS, unless several processes share the machine"))
    return findings


# Caches and the Hub -----------------------------------------------------------------------------------------------


def cache_findings() -> list[Finding]:
    """clzoo's cache, the Hub client's, and the current folder."""
    from clzoo import cache

    places = {"clzoo's cache": cache.root(), "the current folder": Path.cwd()}
    try:
        from huggingface_hub import constants

        places["the Hub's files"] = cache.hub_cache() or Path(constants.HF_HUB_CACHE)
    except ImportError:
        pass  # named with the versions
    return [disk_finding(name, place, *_room(place)) for name, place in places.items()]


def disk_finding(name: str, place: Path, free: int, writable: bool) -> Finding:
    """Whether a folder can be written; `free` in bytes."""
    found = f"{name}: {place}, {free / 2**30:.1f} GiB free"
    variable = {"clzoo's cache": "CLZOO_CACHE", "the Hub's files": "HF_HOME"}.get(name)
    elsewhere = f"export {variable}=/a/folder/with/room" if variable else "use another folder for outputs (--out DIR)"
    if not writable:
        return (problem if variable else note)("disk", f"{found}, and it cannot be written", elsewhere)
    if free < LOW_DISK:
        return note("disk", f"{found}: little", f"clzoo cached and hf cache ls show what can go; or {elsewhere}")
    return ok("disk", found)


def hub_findings(env: Mapping[str, str], token: bool | None = None) -> list[Finding]:
    """How the Hub is reached. Of the token only whether there is one.

    Args:
        env: environment variables.
        token: whether there is one; None: look.
    """
    endpoint = _without_credentials(env.get("HF_ENDPOINT", ""))
    unreadable = None
    try:
        there = _has_token() if token is None else token
    except OSError as error:
        there, unreadable = False, error
    found = (
        f"{endpoint or 'https://huggingface.co'}, {'a token is there' if there else 'no token (private models, push)'}"
    )
    findings = [ok("hub", found)]
    if unreadable is not None:
        found = f"the token cannot be read: {unreadable}"
        findings = [problem("hub", found, "make the file yours, or export HF_TOKEN or HF_HOME=/a/folder/of/yours")]
    if endpoint:
        advice = "unset HF_ENDPOINT, unless this mirror is meant: your token is sent to it"
        findings.append(note("hub", f"HF_ENDPOINT is {endpoint}", advice))
    if env.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        advice = "unset HF_HUB_OFFLINE to download"
        findings.append(note("hub", "HF_HUB_OFFLINE is set: only models that are cached or bundled load", advice))
    return findings


def _without_credentials(url: str) -> str:
    """A mirror's address may hold a name and a password: https://name:password@host."""
    scheme, separator, rest = url.rpartition("://")
    return scheme + separator + rest.rpartition("@")[2]


def _has_token() -> bool:
    try:
        from huggingface_hub import get_token
    except ImportError:
        return False
    return get_token() is not None


def _room(place: Path) -> tuple[int, bool]:
    """Free bytes, and whether the folder (or the one it would be made in) can be written."""
    # Not Path.exists, which raises below a folder that may not be looked into.
    there = next(parent for parent in (place.absolute(), *place.absolute().parents) if os.path.exists(parent))  # noqa: PTH110
    return shutil.disk_usage(there).free, os.access(there, os.W_OK)
