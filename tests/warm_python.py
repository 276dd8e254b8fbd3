"""Fresh Python processes that start in a fraction of a second: forks of one that has imported torch and nothing else.

A setting that a library reads at its import (HF_ENDPOINT, HF_HOME) must be there before it, so a test that changes one
needs a new process; importing torch and torchvision in each would take most of the tests' time.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

_WARM = """
import json, os, runpy, signal, sys, traceback
import torch, torchvision

assert not {"huggingface_hub", "timm", "clzoo"} & sys.modules.keys()
for line in sys.stdin:
    call = json.loads(line)
    if (child := os.fork()) == 0:
        signal.alarm(call["timeout"])
        os.environ.clear()
        os.environ.update(call["environment"])
        for number, path in enumerate((os.devnull, call["stdout"], call["stderr"])):
            os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), number)
        option, what, *rest = call["arguments"]
        code = 0
        try:
            if option == "-c":
                sys.argv = ["-c", *rest]
                exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
            else:
                sys.argv = [what, *rest]
                runpy.run_module(what, run_name="__main__", alter_sys=True)
        except SystemExit as end:
            code = end.code or 0
        except BaseException:
            traceback.print_exc()
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)  # taking torch down in good order would take a second
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class WarmPython:
    """Use as a context manager; `run` is `subprocess.run([sys.executable, "-c" or "-m", ...])`, only faster."""

    def __enter__(self) -> WarmPython:
        self._process = subprocess.Popen(
            [sys.executable, "-c", _WARM], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def run(
        self, arguments: tuple[str, ...], environment: Mapping[str, str], timeout: int
    ) -> subprocess.CompletedProcess[str]:
        """Run "-c", CODE, ... or "-m", MODULE, ... to its end; after `timeout` seconds SIGALRM ends it (code -14)."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.TemporaryDirectory() as folder:
            out, err = Path(folder, "stdout"), Path(folder, "stderr")
            call = {"arguments": arguments, "environment": dict(environment), "timeout": timeout}
            self._process.stdin.write(json.dumps({**call, "stdout": str(out), "stderr": str(err)}) + "\n")
            self._process.stdin.flush()
            code = int(self._process.stdout.readline())
            return subprocess.CompletedProcess(list(arguments), code, out.read_text(), err.read_text())
