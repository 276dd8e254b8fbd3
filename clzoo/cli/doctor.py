"""`clzoo doctor`"""

from __future__ import annotations

import sys

import click

from clzoo.cli.common import print_json, quiet_option, say

_MARKS = {"ok": "ok", "note": "note", "problem": "PROBLEM"}


@click.command(name="doctor")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@quiet_option
def command(as_json: bool, quiet: bool) -> None:
    """Look at this environment: versions, GPUs, libraries that clash, decoding speed, threads, disks.

    Exits with 1 if there is a problem. With --quiet it prints notes and problems only.
    """
    from clzoo.doctor import examine

    findings = examine()
    problems = sum(finding.level == "problem" for finding in findings)
    if as_json:
        print_json({"problems": problems, "findings": [finding.to_json() for finding in findings]})
    else:
        for finding in findings:
            if quiet and finding.level == "ok":
                continue
            say(f"{_MARKS[finding.level]:8} {finding.topic:12} {finding.found}")
            if finding.advice:
                say(f"{'':21} -> {finding.advice}")
        if not quiet:
            say(f"{problems or 'no'} problem{'' if problems == 1 else 's'}")
    if problems:
        sys.exit(1)
