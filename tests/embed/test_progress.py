"""How far a run is, where nobody watches a bar."""

import logging
import re

from clzoo.embed.progress import progress_bar
from clzoo.embed.stream import Clock
from clzoo.heartbeat import Heartbeat


def told(caplog, *, enabled, seconds=100, total=1000):
    caplog.set_level(logging.INFO, "clzoo")
    now = iter(range(seconds + 1))
    with progress_bar(total, Clock(), enabled=enabled, heartbeat=Heartbeat(clock=now.__next__)) as advance:
        for _ in range(seconds):
            advance(5)
    return [record.getMessage() for record in caplog.records]


def test_without_a_terminal_a_line_comes_every_30_seconds(caplog):
    lines = told(caplog, enabled=True)
    assert [line.split("  ")[0] for line in lines] == ["150 of 1000", "300 of 1000", "450 of 1000"]
    assert all(re.search(r"  \d+\.\d img/s  0% waiting for data  .+ left$", line) for line in lines)


def test_a_run_without_progress_has_no_lines(caplog):
    caplog.set_level(logging.INFO, "clzoo")
    with progress_bar(10, Clock(), enabled=False) as advance:
        advance(10)
    assert caplog.records == []
