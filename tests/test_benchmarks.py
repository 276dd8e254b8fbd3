"""Every benchmark can be started; what it measures is for an idle machine to say."""

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from picture_folders import encoded, picture

SCRIPTS = sorted((Path(__file__).resolve().parent.parent / "benchmarks").glob("*.py"))


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_benchmark_explains_itself(script, warm_python):
    result = warm_python.run((str(script), "--help"), os.environ, timeout=300)
    assert result.returncode == 0, result.stderr
    assert f"python benchmarks/{script.name}" in result.stdout


@pytest.mark.slow
def test_odd_images_are_tried_one_by_one_and_by_the_command(tmp_path):
    """A small archive in place of Pillow's; with CLZOO_PILLOW_SOURCE=pillow-VERSION.tar.gz that one."""
    archive = tmp_path / "pillow-0.tar.gz"
    with tarfile.open(archive, "w:gz") as file:
        postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"
        contents = {"good.png": encoded(picture(1, 1)), "bad.png": encoded(picture(2, 2))[:60], "odd.eps": postscript}
        for name, content in contents.items():
            member = tarfile.TarInfo(f"pillow-0/Tests/images/{name}")
            member.size = len(content)
            file.addfile(member, io.BytesIO(content))
    script = SCRIPTS[0].parent / "odd_images.py"
    source = os.environ.get("CLZOO_PILLOW_SOURCE", archive)
    command = [sys.executable, script, "--list", "--pillow-source", source]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "no faults" in result.stdout
    if source == archive:
        assert "good.png: decoded" in result.stdout
        assert "odd.eps: not an image that Pillow can read" in result.stdout
        assert "3 files: 1 decoded, 2 refused with a reason" in result.stdout
