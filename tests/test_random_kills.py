"""A few random kills of every command that writes; `python tests/kill_everything.py --kills 200` does more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("kill_everything.py")


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL and fork are POSIX")
def test_killed_at_random_instants_every_command_is_continued_and_ends_as_if_nobody_had_killed_it() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "--kills", "44"], capture_output=True, text=True, timeout=900)
    print(done.stdout)  # with the seed
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "nothing was found" in done.stdout
