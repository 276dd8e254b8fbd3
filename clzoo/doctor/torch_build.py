"""torch: whether it can be imported, and whether its CUDA, the driver and the GPUs fit each other."""

from __future__ import annotations

import ctypes
import re
import sys
from collections.abc import Mapping
from typing import Any

from clzoo.doctor.finding import Finding, note, ok, problem
from clzoo.doctor.probing import Probe

_GET_TORCH = "pip install --upgrade torch torchvision (which CUDA to take: https://pytorch.org/get-started/locally)"


def torch_findings(torch: Probe, vision: Probe) -> list[Finding]:
    """Whether torch, torchvision and timm can be imported together."""
    if torch.error is not None:
        return [problem("torch", f"torch cannot be imported: {torch.error}", _GET_TORCH)]
    if vision.error is not None:
        found = f"torchvision or timm cannot be imported: {vision.error}; torchvision has to be of torch's release"
        return [problem("torch", found, _GET_TORCH)]
    return []


def driver_cuda() -> tuple[int, int] | None:
    """The newest CUDA that the NVIDIA driver can run, (major, minor); None without a driver."""
    name = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
    version = ctypes.c_int()
    try:
        if ctypes.CDLL(name).cuDriverGetVersion(ctypes.byref(version)) != 0:
            return None
    except (OSError, AttributeError):
        return None
    return (version.value // 1000, version.value % 1000 // 10) if version.value else None


def cuda_findings(torch: Mapping[str, Any], driver: tuple[int, int] | None) -> list[Finding]:
    """What torch was built for against what is there.

    Args:
        torch: version, cuda, hip, gpus, architectures and mps, as the probe reports them.
        driver: newest CUDA of the driver.
    """
    built = f"CUDA {torch['cuda']}" if torch["cuda"] else f"ROCm {torch['hip']}" if torch["hip"] else "the CPU alone"
    about = f"torch {torch['version']} is built for {built}"
    if torch["gpus"]:
        gpus = [
            f"cuda:{number} {gpu['name']}, {gpu['free'] / 2**30:.1f} of {gpu['total'] / 2**30:.1f} GiB free"
            for number, gpu in enumerate(torch["gpus"])
        ]
        findings = [ok("gpu", f"{about}; the driver runs up to CUDA {_dotted(driver)}"), ok("gpu", "; ".join(gpus))]
        for gpu in torch["gpus"]:
            if torch["cuda"] and not _has_code_for(gpu["sm"], torch["architectures"]):
                found = f"{about} without code for {gpu['name']} (sm_{gpu['sm']}): {' '.join(torch['architectures'])}"
                findings.append(problem("gpu", found, _GET_TORCH))
        return findings
    if torch["mps"]:
        return [ok("gpu", f"{about}; an Apple GPU is there (--device mps)")]
    if driver is None:
        return [ok("gpu", f"{about}; no NVIDIA driver is here, so everything runs on the CPU")]
    if torch["cuda"] is None:
        return [problem("gpu", f"{about}, yet an NVIDIA driver (CUDA {_dotted(driver)}) is here", _GET_TORCH)]
    if driver[0] < int(torch["cuda"].partition(".")[0]):
        found = f"{about}, the driver runs only up to CUDA {_dotted(driver)}"
        return [problem("gpu", found, f"update the NVIDIA driver; or take an older CUDA: {_GET_TORCH}")]
    return [
        note(
            "gpu",
            f"{about}, and the driver (CUDA {_dotted(driver)}) fits it, but no GPU is visible",
            "nvidia-smi shows what the driver sees; CUDA_VISIBLE_DEVICES and the container's --gpus may hide it",
        )
    ]


def _has_code_for(sm: int, architectures: list[str]) -> bool:
    """Machine code runs within its major version from its minor on; compute_* is compiled by any newer driver."""
    for architecture in architectures:
        match = re.fullmatch(r"(sm|compute)_(\d+)[af]?", architecture)
        if match is None:
            continue
        built = int(match[2])
        if built <= sm and (match[1] == "compute" or built // 10 == sm // 10):
            return True
    return False


def _dotted(version: tuple[int, int] | None) -> str:
    return "unknown" if version is None else f"{version[0]}.{version[1]}"
