"""Versions, and packages that were installed over each other."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from clzoo.doctor.finding import Finding, ok, problem

SHOWN = (
    "clzoo",
    "torch",
    "torchvision",
    "timm",
    "numpy",
    "pillow",
    "pyarrow",
    "faiss-cpu",
    "faiss-gpu",
    "onnxruntime",
    "onnxruntime-gpu",
    "huggingface-hub",
)
"""Packages whose versions are shown."""

_SAME_MODULE = {
    "faiss": r"faiss-(cpu|gpu)(-cu\d+)?",
    "onnxruntime": r"onnxruntime(-gpu|-directml|-openvino|-training|-silicon|-rocm|-migraphx|-qnn)?",
}
"""Module, and the distributions that install it: of each kind only one can be there."""


_ONE_OF = {"faiss": ("faiss-gpu", "faiss-cpu"), "onnxruntime": ("onnxruntime-gpu", "onnxruntime")}


def version_findings(
    installed: Mapping[str, str], requirements: Sequence[str], python: tuple[int, ...]
) -> list[Finding]:
    """What is installed, what is missing and what is too old.

    Args:
        installed: version by normalized distribution name.
        requirements: of clzoo, as `importlib.metadata.requires` gives them.
        python: (major, minor, micro).
    """
    shown = ", ".join(f"{name} {installed[name]}" for name in SHOWN if name in installed)
    findings = [ok("versions", f"python {'.'.join(map(str, python))}, {shown}")]
    for line in requirements:
        requirement = Requirement(line)
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue  # of an extra, or of another platform
        name, wanted = canonicalize_name(requirement.name), line.partition(";")[0].strip()
        if name not in installed:
            findings.append(problem("versions", f"{name} is not installed", f'pip install "{wanted}"'))
        elif not _fits(installed[name], requirement.specifier):
            found = f"{name} {installed[name]} is not {requirement.specifier}"
            findings.append(problem("versions", found, f'pip install --upgrade "{wanted}"'))
    return findings


def clashes(installed: Mapping[str, str]) -> list[Finding]:
    """CPU and GPU packages of one module installed over each other: the files are a mixture of both."""
    findings = []
    for module, pattern in _SAME_MODULE.items():
        several = sorted(name for name in installed if re.fullmatch(pattern, name))
        gpu, cpu = _ONE_OF[module]
        if len(several) > 1:
            findings.append(
                problem(
                    module,
                    f"{' and '.join(several)} are installed over each other: both are the module {module}",
                    f"pip uninstall -y {' '.join(several)}; then pip install {gpu} with an NVIDIA GPU, else {cpu}",
                )
            )
    return findings


def _fits(version: str, wanted: SpecifierSet) -> bool:
    """By PEP 440: a nightly build counts, what follows "+" does not; what is no version cannot be too old."""
    try:
        return wanted.contains(Version(version), prereleases=True)
    except InvalidVersion:  # of a build by hand
        return True
