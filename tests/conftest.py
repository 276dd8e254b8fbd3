"""Fixtures that several folders of tests share."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

sys.path.insert(0, str(Path(__file__).parent))  # for `from hub_server import ...`
# Before torch is imported, here and in every process that a test starts: workers side by side do not fight for cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

from hub_server import TOKEN, HubServer
from warm_python import Child, WarmPython
from web_server import WebServer


class Hub(HubServer):
    """The server, and fresh Python processes whose `huggingface_hub` talks to it (it reads HF_ENDPOINT at import)."""

    def __init__(self, home: Path, warm: WarmPython) -> None:
        super().__init__()
        self._home, self._warm = home, warm

    def environment(self, token: str | None = TOKEN, **extra: str) -> dict[str, str]:
        """The environment of such a process: own caches, LFS instead of Xet, this token."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING", "CLZOO_"))}
        ours = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(self._home / "hf-home"),
            "XDG_CACHE_HOME": str(self._home / "cache"),
            "HF_HUB_DISABLE_XET": "1",
            "OMP_NUM_THREADS": "1",
        }
        return {**kept, **ours, **({"HF_TOKEN": token} if token else {}), **extra}

    def python(
        self, *arguments: str, token: str | None = TOKEN, timeout: int = 120, **extra: str
    ) -> subprocess.CompletedProcess[str]:
        """Run `python -c CODE ...` or `python -m MODULE ...` to its end; `extra` are environment variables."""
        return self._warm.run(arguments, self.environment(token, **extra), timeout)

    def start(self, *arguments: str) -> Child:
        """The same in the background."""
        return self._warm.start(arguments, self.environment(), timeout=240)


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tests leave nothing in the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def warm_python() -> Iterator[WarmPython]:
    """Starts fresh Python processes quickly."""
    with WarmPython() as warm:
        yield warm


@pytest.fixture(scope="session")
def small_graph(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`small_encoder()` as an ONNX file, not to be changed; exported once for all workers, since it takes seconds."""
    from filelock import FileLock
    from small_models import small_encoder

    own = tmp_path_factory.getbasetemp()
    shared = own.parent if "PYTEST_XDIST_WORKER" in os.environ else own
    with FileLock(shared / "small_graph.lock"):
        if not (shared / "small.onnx").exists():
            small_encoder().export(shared / "small.onnx")
    return shared / "small.onnx"


@pytest.fixture
def hub(tmp_path: Path, warm_python: WarmPython) -> Iterator[Hub]:
    """A Hub-compatible server on loopback, empty, with one valid token."""
    with Hub(tmp_path, warm_python) as server:
        yield server


@pytest.fixture
def memory() -> Iterator[MemoryFileSystem]:
    """fsspec's storage in memory, empty before and after."""
    files = fsspec.filesystem("memory")
    yield files
    files.store.clear()
    files.pseudo_dirs[:] = [""]


@pytest.fixture
def web() -> Iterator[WebServer]:
    """A web server on loopback."""
    pytest.importorskip("aiohttp")
    server = WebServer()
    yield server
    server.close()


@pytest.fixture
def clzoo_says(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run a command in this process: (exit code, standard output, standard error)."""

    from clzoo.cli import main

    def run(*arguments: object) -> tuple[int, str, str]:
        code: Any = 0
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as exit_:
            code = exit_.code
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def pytest_runtest_setup(item: pytest.Item) -> None:
    """A test marked `gpu` is skipped where there is none, however the run was started."""
    if item.get_closest_marker("gpu"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("no CUDA device")
