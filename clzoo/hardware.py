"""What a measurement ran on, for cards and metrics."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path


def describe_hardware(device: str = "cpu") -> str:
    """For example "AMD EPYC, 2 cores" or "NVIDIA H100 80GB HBM3"."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {os.cpu_count()} cores"


def describe_versions() -> dict[str, str]:
    """Versions that a result may depend on."""
    packages = ("clzoo", "torch", "timm", "numpy", "pillow")
    return {"python": platform.python_version(), **{package: version(package) for package in packages}}


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")  # Linux; elsewhere the platform's own word has to do
    if cpuinfo.is_file():
        for line in cpuinfo.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
