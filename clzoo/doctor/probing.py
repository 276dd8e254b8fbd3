"""Libraries are imported in a process of their own: it may crash, hang or print what it likes."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field
from typing import Any

_SECONDS = 120  # a first import from a cold network disk takes long

_MARK = "clzoo-doctor:"

_PRINT = f"""
import json
def report(**values):
    print({_MARK!r} + json.dumps(values), flush=True)
"""

TORCH = """
import torch
cuda = torch.cuda.is_available()
gpus = []
for number in range(torch.cuda.device_count() if cuda else 0):
    about = torch.cuda.get_device_properties(number)
    free, total = torch.cuda.mem_get_info(number)
    gpus.append({"name": about.name, "sm": about.major * 10 + about.minor, "free": free, "total": total})
report(
    version=torch.__version__, cuda=torch.version.cuda, hip=torch.version.hip, gpus=gpus,
    threads=torch.get_num_threads(),
    architectures=torch.cuda.get_arch_list() if cuda else [], mps=torch.backends.mps.is_available(),
)
"""

VISION = "import torch, torchvision, timm\nreport(version=torchvision.__version__)"

# With torch before it, as a search does: two OpenMP runtimes show only when both are loaded.
FAISS = """
import importlib
import re
from pathlib import Path
try:
    import torch
except ImportError:
    pass
faiss = importlib.import_module("faiss")
maps = Path("/proc/self/maps")
loaded = sorted(set(re.findall(r"/\\S*", maps.read_text()))) if maps.exists() else None
report(
    version=faiss.__version__, options=faiss.get_compile_options().split(), gpu=hasattr(faiss, "StandardGpuResources"),
    gpus=faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0, openmp=loaded,
    rabitq=hasattr(faiss, "IndexRaBitQ"), cagra=hasattr(faiss, "GpuIndexCagra"),
)
"""

# Serialized ONNX: y = -x, float32 (1,), opset 13. (onnx itself need not be installed to run a model.)
TINY_GRAPH = (
    "08083a320a0b0a017812017922034e65671201675a0f0a0178120a0a08080112040a020801620f0a0179120a0a08080112040a02080142040a"
    "00100d"
)

# The provider that a session really has is known only when one was made: the list of available ones is of the build.
ONNXRUNTIME = f"""
import onnxruntime
onnxruntime.set_default_logger_severity(4)
graph = bytes.fromhex({TINY_GRAPH!r})
available = onnxruntime.get_available_providers()
real = {{}}
asked_for = ("CPU", "CUDA", "Tensorrt", "OpenVINO", "CoreML")
for asked in (name + "ExecutionProvider" for name in asked_for):
    if asked in available:
        try:
            real[asked] = onnxruntime.InferenceSession(graph, providers=[asked]).get_providers()[0]
        except Exception as error:
            real[asked] = f"{{type(error).__name__}}: {{error}}"[:300]
report(version=onnxruntime.__version__, available=available, real=real)
"""


@dataclass(frozen=True)
class Probe:
    """What a process reported, or why it did not."""

    values: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


def probe(code: str) -> Probe:
    """Run code that calls `report(**values)` once, in a new Python of this environment."""
    try:
        done = subprocess.run([sys.executable, "-c", _PRINT + code], capture_output=True, text=True, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return Probe(error=f"no answer within {_SECONDS} seconds")
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Probe(json.loads(line.removeprefix(_MARK)))
    if done.returncode < 0:
        return Probe(error=f"the process crashed (signal {-done.returncode})")
    return Probe(error=(done.stderr.strip().splitlines() or ["it said nothing"])[-1])
