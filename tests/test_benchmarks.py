"""Every benchmark can be started; what it measures is for an idle machine to say."""

import importlib
import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest
from picture_folders import encoded, picture

from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

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


def test_a_rehearsal_is_no_measurement_and_a_part_that_failed_is_measured_again(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    gpu = importlib.import_module("gpu")
    path = tmp_path / "views.json"
    assert not gpu.is_there(path, rehearsal=True)
    for rehearsal, code in ((True, 0), (False, 0), (False, 1)):
        path.write_text(json.dumps({"rehearsal": rehearsal, "returncode": code}))
        assert gpu.is_there(path, rehearsal=rehearsal) == (code == 0)
        assert not gpu.is_there(path, rehearsal=not rehearsal)


def test_parity_fails_of_no_pictures_and_of_vectors_that_are_no_numbers(tmp_path, monkeypatch, capsys):
    monkeypatch.syspath_prepend(SCRIPTS[0].parent)
    gpu = importlib.import_module("gpu")
    with pytest.raises(ClzooError, match="holds no images"):
        gpu.parity(tmp_path, small=True)
    picture(1, 1).save(tmp_path / "a.webp")
    assert gpu.parity(tmp_path, small=True) == 0
    assert "1 pictures: least cosine 1.000000" in capsys.readouterr().out
    plain, asked = Encoder.encode, []

    def broken(self, pixels, **options):
        asked.append(options)
        return plain(self, pixels, **options) * (float("nan") if len(asked) % 2 == 0 else 1)

    monkeypatch.setattr(Encoder, "encode", broken)
    assert gpu.parity(tmp_path, small=True) == 1


@pytest.mark.slow
def test_the_day_with_a_gpu_is_rehearsed_on_a_cpu(tmp_path):
    """Every part that `benchmarks/gpu.sh` would run starts and ends well; again, nothing is left to do."""
    command = ["bash", str(SCRIPTS[0].parent / "gpu.sh"), "--rehearse", "--out", str(tmp_path)]
    environment = {**os.environ, "PYTHON": sys.executable}
    for _ in range(2):
        result = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        assert result.returncode == 0, result.stdout + result.stderr
    assert result.stdout.count("there already") == 7
    refused = subprocess.run(
        [sys.executable, str(SCRIPTS[0].parent / "gpu.py"), "--table", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert refused.returncode == 1
    assert "rehearsal, which measures nothing" in refused.stderr
