"""`clzoo doctor`: what this machine and this environment have, what does not fit together, and what to type.

Every check is a function of plain values that returns findings, so that it can be tested for machines that are not at
hand; `examine` gathers the values here. Libraries are imported in processes of their own (`clzoo.doctor.probing`): one
that crashes is a finding, not the end of the report.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys

from packaging.utils import canonicalize_name

from clzoo.doctor.finding import Finding
from clzoo.doctor.libraries import index_findings, onnxruntime_findings, openmp_findings
from clzoo.doctor.machine import (
    cache_findings,
    cpu_quota,
    decode_findings,
    decode_speed,
    hub_findings,
    image_codecs,
    memory_limit,
    thread_findings,
)
from clzoo.doctor.packages import clashes, version_findings
from clzoo.doctor.probing import FAISS, ONNXRUNTIME, TORCH, VISION, probe
from clzoo.doctor.torch_build import cuda_findings, driver_cuda, torch_findings

__all__ = ["Finding", "examine"]


def examine() -> list[Finding]:
    """All findings about this environment, in the order of the report; takes some seconds and changes nothing."""
    installed = _installed()
    torch = probe(TORCH)
    gpus = torch.values.get("gpus", [])
    findings = version_findings(installed, importlib.metadata.requires("clzoo") or [], sys.version_info[:3])
    findings += clashes(installed)
    findings += torch_findings(torch, probe(VISION))
    if torch.error is None:
        findings += cuda_findings(torch.values, driver_cuda())
    faiss = probe(FAISS) if _any_of(installed, "faiss") else None
    findings += index_findings(faiss, gpus)
    findings += onnxruntime_findings(
        probe(ONNXRUNTIME) if _any_of(installed, "onnxruntime") else None, gpus, gpu_package=_gpu_onnxruntime(installed)
    )
    if faiss is not None:
        findings += openmp_findings(faiss.values.get("openmp"), sys.platform, os.environ)
    findings += decode_findings(image_codecs(), decode_speed())
    findings += thread_findings(
        usable=_affinity(), quota=cpu_quota(), memory=memory_limit(), torch=torch.values.get("threads"), env=os.environ
    )
    findings += cache_findings()
    findings += hub_findings(os.environ)
    return findings


def _installed() -> dict[str, str]:
    """Version of each installed distribution, by its normalized name."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed package has none
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def _any_of(installed: dict[str, str], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in installed)


def _gpu_onnxruntime(installed: dict[str, str]) -> bool:
    return "onnxruntime-gpu" in installed


def _affinity() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
