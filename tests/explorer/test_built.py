"""What `make web` builds is part of the repository, and is built from the sources that are."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest
import yaml

from clzoo.explorer.page import built

ROOT = Path(__file__).resolve().parents[2]
WEB = ROOT / "web"


@pytest.mark.parametrize("name", ["explorer.js", "explorer.css"])
def test_the_built_files_are_of_these_sources(name):
    digest = hashlib.sha256()
    for path in sorted((WEB / "src").iterdir(), key=lambda path: path.name):
        digest.update(f"{path.name}\0".encode() + path.read_bytes())
    digest.update((WEB / "package.json").read_bytes())
    assert f"sources of sha256 {digest.hexdigest()}" in built(name).partition("\n")[0], "type: make web"


def test_what_is_bundled_is_named_with_its_version_and_license():
    text = (ROOT / "THIRD_PARTY.md").read_text(encoding="utf-8")
    package = yaml.safe_load((WEB / "package.json").read_text())
    assert package["dependencies"]
    for name, version in package["dependencies"].items():
        part = text.partition(f"## {name} {version}\n")[2].partition("\n## ")[0]
        assert "Permission to use, copy, modify" in part, name


def test_the_script_needs_no_permission_but_its_hash_and_asks_nobody():
    script = built("explorer.js")
    assert not re.search(r"\beval\(|\bFunction\(|\.innerHTML|insertAdjacentHTML|document\.write|import\(", script)
    assert set(re.findall(r"https?://[^\"'`\s]+", script)) == {"http://www.w3.org/2000/svg"}
    assert "</script" not in script
