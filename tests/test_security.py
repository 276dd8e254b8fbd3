"""docs/security.md: the tests that it names exist, and what no other test holds."""

from __future__ import annotations

import ast
import json
import os
import pickle
import re
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from picture_folders import encoded, make_shard, picture
from PIL import Image
from small_models import small_encoder

import clzoo
from clzoo import ClzooError, embed_folder, open_store
from clzoo.data.opening import open_split
from clzoo.data.packing import pack
from clzoo.data.sources import list_images, read_image
from clzoo.data.training import open_training_set
from clzoo.embed.manifest import MANIFEST
from clzoo.evaluation.features import extract
from clzoo.files import sha256_of, write_json
from clzoo.images import SUFFIXES, as_rgb
from clzoo.overrides import apply_overrides
from clzoo.page import TEMPLATES, render
from clzoo.pretrain.checkpoint import load_checkpoint
from clzoo.pretrain.recipe_files import load_recipe

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "clzoo"


class Trap:
    """Unpickling it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.trace),)


@pytest.fixture
def trap(tmp_path: Path) -> Trap:
    return Trap(tmp_path / "it-ran")


def test_every_test_that_the_document_names_exists() -> None:
    document = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    named = re.findall(r"(tests/[\w/]+\.py)::(test_\w+)", document)
    assert len(named) > 25
    for path, name in named:
        functions = {
            node.name for node in ast.parse((ROOT / path).read_text()).body if isinstance(node, ast.FunctionDef)
        }
        assert name in functions, f"{path}::{name}"


# Terminal -------------------------------------------------------------------------------------------------------------


def test_everything_is_printed_through_one_place_that_spells_names_out() -> None:
    printing = calls("click.echo", "click.secho", "echo", "print", "warnings.warn")
    # say(), the errors of main(), notices of a Python session, and what goes out of use (spelt out there, too)
    allowed = {"common.py", "__init__.py", "notices.py", "deprecation.py"}
    assert {path.name for path, _ in printing} <= allowed
    assert {path.name for path, _ in calls("Console", "rich.print")} <= {
        "common.py",
        "progress.py",
    }


# Images ---------------------------------------------------------------------------------------------------------------

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 32 32\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The mark that a `gs` on the PATH leaves."""
    interpreter = tmp_path / "bin" / "gs"
    interpreter.parent.mkdir()
    interpreter.write_text(f'#!/bin/sh\ntouch "{tmp_path}/started"\necho 10.0\n')
    interpreter.chmod(0o755)
    monkeypatch.setenv("PATH", f"{interpreter.parent}{os.pathsep}{os.environ['PATH']}")
    return tmp_path / "started"


def test_postscript_under_any_name_is_named_by_everything_that_reads_images(tmp_path: Path, started: Path) -> None:
    folder = tmp_path / "images"
    for split in ("train", "test"):
        for number, name in enumerate(("ant", "bee")):
            (folder / split / name).mkdir(parents=True)
            picture(number, number).save(folder / split / name / "good.png")
            for suffix in SUFFIXES:
                (folder / split / name / f"bad{suffix}").write_bytes(POSTSCRIPT)
    encoder = small_encoder()
    summary = embed_folder(folder, encoder, tmp_path / "store", progress=False)
    assert (summary.embedded, summary.failed) == (4, 4 * len(SUFFIXES))
    with pytest.raises(ClzooError, match="cannot be decoded: not an image"):
        encoder.embed([folder / "train" / "ant" / "bad.jpg"])
    (packed, _) = pack(folder, 16, tmp_path / "packed")
    assert (packed["images"], len(packed["skipped"])) == (2, 2 * len(SUFFIXES))
    assert len(extract(encoder, open_split(folder, "train"), cache_dir=tmp_path / "cache").x) == 2
    resident = open_training_set("mine", folder, 16)
    assert resident.pixels is not None
    assert len(resident.pixels) == 2
    assert not started.exists()


def test_postscript_under_any_name_starts_no_interpreter(tmp_path: Path, started: Path) -> None:
    (tmp_path / "holiday.jpg").write_bytes(POSTSCRIPT)
    opened = Image.open(tmp_path / "holiday.jpg")
    assert opened.format == "EPS"  # Pillow would hand it to the interpreter when its pixels are asked for
    for image in (tmp_path / "holiday.jpg", POSTSCRIPT, opened):
        with pytest.raises(ClzooError, match=r"not an image that Pillow can read|its format, EPS, is none"):
            as_rgb(image)
    assert not started.exists()
    with pytest.raises(OSError, match=r"."):
        opened.load()
    assert started.exists()  # the trap works


def test_pillow_opens_files_only_in_named_formats() -> None:
    opened = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in ("Image.open", "PIL.Image.open"):
                opened.append(path.name)
                assert "formats" in [keyword.arg for keyword in node.keywords], f"{path}:{node.lineno}"
    assert "decoding.py" in opened


def test_no_other_library_opens_images() -> None:
    other = r"\bimread\b|torchvision\.io\.(read|decode_(image|png|webp|gif))|import (cv2|imageio|skimage)"
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(other, text), path
        assert not re.search(r"from PIL\.Image import|from PIL import Image as|import PIL\.Image", text), path


# Pickles and code -----------------------------------------------------------------------------------------------------


def calls(*names: str) -> list[tuple[Path, ast.Call]]:
    """All calls of these dotted names in the package."""
    found = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and ast.unparse(node.func) in names:
                found.append((path, node))
    return found


def test_nothing_in_the_package_unpickles_evaluates_or_unpacks_what_it_reads() -> None:
    refused = ("pickle.load", "pickle.loads", "eval", "exec", "os.system", "yaml.unsafe_load", "yaml.full_load")
    assert calls(*refused) == []
    for path in PACKAGE.rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"\.extract(all)?\(|trust_remote_code|shell=True|allow_pickle=True", text), path


def test_every_torch_load_is_weights_only() -> None:
    found = calls("torch.load")
    assert found
    for path, call in found:
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        assert options.get("weights_only") == "True", path


def test_every_yaml_load_has_a_safe_loader(trap: Trap) -> None:
    from clzoo.yaml_text import Yaml

    assert issubclass(Yaml, yaml.SafeLoader)
    found = calls("yaml.load")
    assert found
    for path, call in found:
        assert {option.arg: ast.unparse(option.value) for option in call.keywords}["Loader"] == "Yaml", path


def test_text_of_others_is_parsed_in_one_place_with_bounds() -> None:
    assert {path.name for path, _ in calls("yaml.load", "yaml.safe_load")} == {"yaml_text.py"}
    own = {"probing.py", "convert.py"}  # what a process of ours prints, and values of the command line
    assert {path.name for path, _ in calls("json.loads", "json.load")} - own == {"files.py"}


def test_a_recipe_that_wants_code_is_refused_and_nothing_runs(tmp_path: Path, trap: Trap) -> None:
    wanted = f"!!python/object/apply:os.mkdir [{trap.trace}]"
    (tmp_path / "recipe.yaml").write_text(f"seed: {wanted}\n")
    with pytest.raises(ClzooError, match="is not valid YAML"):
        load_recipe(tmp_path / "recipe.yaml")
    with pytest.raises(ClzooError, match="is not valid YAML"):
        apply_overrides({"seed": 0}, [f"seed={wanted}"])
    assert not trap.trace.exists()
    yaml.unsafe_load(wanted)
    assert trap.trace.exists()  # the trap works


def test_a_training_checkpoint_that_wants_code_is_refused_though_its_checksum_is_right(
    tmp_path: Path, trap: Trap
) -> None:
    path = tmp_path / "checkpoint-00000001.pt"
    torch.save({"step": 1, "rng": trap}, path)
    write_json(path.with_suffix(".json"), {"step": 1, "sha256": sha256_of(path)})
    with pytest.raises(ClzooError, match="none is whole"):
        load_checkpoint(tmp_path)
    assert not trap.trace.exists()


def test_a_checkpoint_path_in_the_config_of_a_model_is_refused(tmp_path: Path, trap: Trap) -> None:
    folder = small_encoder().save_pretrained(tmp_path / "model")
    torch.save({"state_dict": trap}, folder / "extra.pth")
    config = json.loads((folder / "config.json").read_text())
    config["model_args"] = {"checkpoint_path": str(folder / "extra.pth")}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClzooError, match="'checkpoint_path', which is no property of an architecture"):
        clzoo.load(folder, device="cpu")
    assert not trap.trace.exists()


@pytest.mark.parametrize("architecture", ["hf-hub:somebody/model", "local-dir:.", "resnet18.a1_in1k/../.."])
def test_an_architecture_that_names_a_place_is_refused(tmp_path: Path, architecture: str) -> None:
    folder = small_encoder().save_pretrained(tmp_path / "model")
    config = json.loads((folder / "config.json").read_text())
    config["architecture"] = architecture
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ClzooError):
        clzoo.load(folder, device="cpu")


# Arrays and stores of others ------------------------------------------------------------------------------------------


def test_a_store_whose_vectors_are_pickled_objects_is_refused_and_nothing_runs(tmp_path: Path, trap: Trap) -> None:
    make_pictures(tmp_path / "images")
    embed_folder(tmp_path / "images", small_encoder(), tmp_path / "store", progress=False)
    (path,) = (tmp_path / "store").glob("embeddings-*.npy")
    np.save(path, np.array([trap, trap], dtype=object), allow_pickle=True)
    with pytest.raises(ClzooError, match="is damaged"):
        open_store(tmp_path / "store")
    assert not trap.trace.exists()
    np.load(path, allow_pickle=True)
    assert trap.trace.exists()  # the trap works


def test_every_numpy_file_is_read_without_pickles() -> None:
    found = calls("np.load", "numpy.load")
    assert found
    for path, call in found:  # numpy's default is False since 1.16.3
        options = {option.arg: ast.unparse(option.value) for option in call.keywords}
        assert options.get("allow_pickle", "False") == "False", path


def test_a_run_deletes_nothing_outside_of_its_store_whatever_the_manifest_names(tmp_path: Path) -> None:
    make_pictures(tmp_path / "images")
    encoder = small_encoder()
    embed_folder(tmp_path / "images", encoder, tmp_path / "store", progress=False)
    manifest = json.loads((tmp_path / "store" / MANIFEST).read_text())
    segment = manifest["segments"][0]
    for kind in ("embeddings", "items"):
        (tmp_path / "store" / segment[kind]).rename(tmp_path / segment[kind])
        segment[kind] = f"../{segment[kind]}"
    (tmp_path / "store" / MANIFEST).write_text(json.dumps(manifest))
    picture(9, 9).save(tmp_path / "images" / "new.png")
    embed_folder(tmp_path / "images", encoder, tmp_path / "store", progress=False)
    assert sorted(path.suffix for path in tmp_path.glob("*-*.*")) == [".npy", ".parquet"]


# Shards ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["../../outside.png", "/outside.png", "a/../../../outside.png"])
def test_a_member_that_leaves_its_folder_is_read_in_place_and_never_unpacked(tmp_path: Path, name: str) -> None:
    inside, outside = encoded(picture(1, 1)), encoded(picture(2, 2))
    here = tmp_path / "deep" / "data"
    shard = make_shard(here / "a.tar", {name: inside})
    for place in (tmp_path, tmp_path / "deep", here):
        (place / "outside.png").write_bytes(outside)
    before = sorted(tmp_path.rglob("*"))
    (item,) = list_images(shard).items
    assert item.read() == read_image(here, item.path) == inside
    assert sorted(tmp_path.rglob("*")) == before


def test_members_that_are_devices_pipes_or_links_are_named_and_not_followed(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        kinds = {"dev.png": tarfile.CHRTYPE, "pipe.png": tarfile.FIFOTYPE, "hard.png": tarfile.LNKTYPE}
        for name, kind in kinds.items():
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
    listing = list_images(tmp_path / "a.tar")
    assert listing.items == []
    assert {failure.path for failure in listing.failures} == {f"a.tar/{name}" for name in kinds}


# Pages ----------------------------------------------------------------------------------------------------------------


def test_every_page_forbids_scripts_and_requests_and_escapes_title_and_facts() -> None:
    hostile = "<script>alert(1)</script>"
    page = render("base.html", title=hostile, facts=[hostile])
    assert "default-src 'none'" in page
    assert "script-src" not in page
    assert hostile not in page
    assert page.count("&lt;script&gt;") == 3


def test_every_html_page_of_the_package_has_that_frame_but_the_explorers_which_has_one_of_its_own() -> None:
    pages = [path for path in PACKAGE.rglob("*") if path.suffix in (".py", ".html")]
    frames = {path.name for path in pages if "<html" in path.read_text(encoding="utf-8").lower()}
    assert frames == {"base.html", "explorer.html"}  # its policy: tests/explorer/test_page.py
    for path in set(TEMPLATES.glob("*.html")) - {TEMPLATES / "explorer.html"}:
        text = path.read_text(encoding="utf-8")
        assert '{% extends "base.html" %}' in text or path.name in ("base.html", "parts.html"), path
        assert "<script" not in text, path


def test_the_trap_would_spring(trap: Trap) -> None:
    pickle.loads(pickle.dumps(trap))
    assert trap.trace.exists()


def make_pictures(folder: Path) -> None:
    folder.mkdir()
    for number in range(2):
        picture(number, number).save(folder / f"{number}.png")
