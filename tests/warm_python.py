"""Fresh Python processes that start in a fraction of a second: forks of one that has imported torch and no clzoo.

A setting that a library reads at its import (HF_ENDPOINT, HF_HOME) must be there before it, so a test that changes one
needs a new process, and so does one that kills; importing torch and torchvision takes four seconds of a core each time.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

_IMPORTS = """
import torch, torchvision
import click, filelock, fsspec, jinja2, numpy, PIL.Image, pyarrow.parquet, pydantic, rich.console, rich.progress
import safetensors.torch, scipy, yaml
"""

_WARM = """
import json, os, runpy, signal, sys, traceback

assert not {"huggingface_hub", "timm", "clzoo"} & sys.modules.keys()

def become(call):
    signal.alarm(call["timeout"])
    os.environ.clear()
    os.environ.update(call["environment"])
    os.chdir(call["folder"])
    for number, path in enumerate((call["stdin"], call["stdout"], call["stderr"])):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
    option, *rest = call["arguments"]
    code = 0
    try:
        if option == "-c":
            sys.argv = ["-c", *rest[1:]]
            exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
        elif option == "-m":
            sys.argv = rest
            runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
        else:
            sys.argv = [option, *rest]
            sys.path.insert(0, os.path.dirname(option))
            runpy.run_path(option, run_name="__main__")
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)  # taking torch down in good order would take a second

for line in sys.stdin:
    call = json.loads(line)
    if "poll" in call:
        pid, status = os.waitpid(call["poll"], os.WNOHANG)
        print(os.waitstatus_to_exitcode(status) if pid else "null", flush=True)
    elif (child := os.fork()) == 0:
        become(call)
    else:
        print(child, flush=True)
"""


class Child:
    """One of these processes, used as `subprocess.Popen` is; what it prints lies in files."""

    def __init__(self, warm: WarmPython, pid: int, arguments: tuple[str, ...], output: tuple[str, str]) -> None:
        self.pid, self.returncode = pid, None
        self._warm, self._arguments, self._output = warm, arguments, output

    returncode: int | None

    def poll(self) -> int | None:
        """The exit code, negative after a signal; None while it runs."""
        if self.returncode is None:
            self.returncode = self._warm.ask({"poll": self.pid})
        return self.returncode

    def wait(self) -> int:
        """Wait for the end; the time limit is the one it was started with."""
        while (code := self.poll()) is None:
            time.sleep(0.005)
        return code

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def finish(self) -> subprocess.CompletedProcess[str]:
        """Wait for the end; code, standard output and standard error."""
        code, (out, err) = self.wait(), (Path(path).read_text() for path in self._output)
        return subprocess.CompletedProcess(list(self._arguments), code, out, err)


class WarmPython:
    """Use as a context manager; `run` is `subprocess.run([python, *arguments])`, only faster."""

    def __init__(
        self,
        python: str | Path = sys.executable,
        environment: Mapping[str, str] | None = None,
        imports: str = _IMPORTS,
    ) -> None:
        self._python, self._environment, self._imports = python, environment, imports

    def __enter__(self) -> WarmPython:
        self._folder = tempfile.TemporaryDirectory()
        self._children: list[Child] = []
        self._process = subprocess.Popen(
            [self._python, "-c", self._imports + _WARM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=self._environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        for child in self._children:
            child.kill()
        self._process.kill()
        self._process.communicate()
        self._folder.cleanup()

    def start(
        self,
        arguments: tuple[str, ...],
        environment: Mapping[str, str],
        timeout: int,
        *,
        stdin: str | Path = os.devnull,
        stdout: str | Path | None = None,
        stderr: str | Path | None = None,
        folder: Path | None = None,
    ) -> Child:
        """Start "-c", CODE, ... or "-m", MODULE, ... or SCRIPT, ...; SIGALRM ends it after so many seconds (code -14).

        The standard streams are files, named pipes or terminals; those that are given are not part of the outcome.
        """
        out, err = (f"{self._folder.name}/{len(self._children)}.{name}" for name in ("out", "err"))
        for path in (out, err):
            Path(path).touch()
        call = {
            "arguments": arguments,
            "environment": dict(environment),
            "timeout": timeout,
            "folder": str(folder or Path.cwd()),
            "stdin": str(stdin),
            "stdout": str(stdout or out),
            "stderr": str(stderr or err),
        }
        self._children.append(Child(self, self.ask(call), arguments, (out, err)))
        return self._children[-1]

    def run(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], timeout: int, *, folder: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        """The same to its end."""
        return self.start(arguments, environment, timeout, folder=folder).finish()

    def ranks(
        self, count: int, arguments: tuple[str, ...], environment: Mapping[str, str], timeout: int
    ) -> list[subprocess.CompletedProcess[str]]:
        """What `torchrun --nproc-per-node=COUNT ARGUMENTS` starts, with its variables and store; one outcome a rank."""
        from torch.distributed import TCPStore

        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        together = {
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(store.port),
            "TORCHELASTIC_USE_AGENT_STORE": "True",
            "WORLD_SIZE": str(count),
            "LOCAL_WORLD_SIZE": str(count),
        }
        children = [
            self.start(arguments, {**environment, **together, "RANK": str(n), "LOCAL_RANK": str(n)}, timeout)
            for n in range(count)
        ]
        return [child.finish() for child in children]

    def ask(self, call: dict[str, object]) -> int:
        """One line to the warm process, and its answer."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(call) + "\n")
        self._process.stdin.flush()
        return json.loads(self._process.stdout.readline())
