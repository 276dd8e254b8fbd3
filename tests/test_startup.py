"""What importing clzoo and starting a command costs, by what is imported; `benchmarks/startup.py` measures seconds."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from picture_folders import make_folder
from PIL import Image
from small_models import small_encoder

import clzoo

TORCH = {"torch", "timm", "torchvision", "transformers", "onnx", "onnxruntime"}
HEAVY = TORCH | {"faiss", "pyarrow", "pandas", "matplotlib", "scipy", "sklearn", "datasets", "numpy", "PIL", "pydantic"}
HEAVY |= {"huggingface_hub", "requests", "httpx", "aiohttp", "fsspec", "jinja2"}


COMPILER = {"torch._dynamo", "torch._inductor", "sympy", "triton"}
"""What torch.compile needs and nothing else; as much time as torch itself."""


def modules_after(code: str) -> set[str]:
    command = [sys.executable, "-c", f"import sys; {code}; print(*{{name.partition('.')[0] for name in sys.modules}})"]
    return set(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split())


def modules_of(*arguments: object) -> set[str]:
    """What `clzoo ARGUMENTS` has imported when it ends, successfully."""
    program = (
        "import json, sys\nfrom clzoo.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "print(json.dumps(sorted(sys.modules)), file=sys.stderr)\n"
    )
    command = [sys.executable, "-c", program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.fixture(scope="module")
def store(tmp_path_factory) -> Path:
    """A finished, indexed store of six pictures, with their labels."""
    place = tmp_path_factory.mktemp("startup")
    model = small_encoder().save_pretrained(place / "model")
    pictures = make_folder(place / "pictures", {"red": 3, "blue": 3})
    clzoo.embed_folder(pictures, clzoo.load(model, device="cpu"), place / "store", labels=True, progress=False)
    clzoo.build_index(place / "store")
    return place / "store"


def test_importing_clzoo_imports_nothing_heavy():
    assert not modules_after("import clzoo") & HEAVY


def test_lite_is_reached_in_both_ways_without_torch():
    assert "torch" not in modules_after("import clzoo; clzoo.lite.load; dir(clzoo)")
    assert "torch" not in modules_after("from clzoo import lite; lite.load")


def test_modules_of_the_public_names_are_reached_from_clzoo_alone():
    code = "import clzoo; clzoo.index.build_part; clzoo.curation.classify_images; clzoo.images.SUFFIXES; clzoo.losses"
    assert "pyarrow" in modules_after(code)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["embed", "--help"], ["search", "-h"]], ids=" ".join)
def test_help_comes_without_anything_heavy(arguments):
    assert not modules_of(*arguments) & HEAVY


@pytest.mark.parametrize(
    "arguments", [["list"], ["list", "--json"], ["info", "supcon-resnet10_w32-tiny"]], ids=" ".join
)
def test_looking_at_the_zoo_imports_nothing_heavy(arguments):
    assert not modules_of(*arguments) & HEAVY


def test_cached_imports_no_torch():
    assert not modules_of("cached") & (TORCH | {"faiss", "pyarrow", "matplotlib"})


def test_what_only_moves_vectors_imports_no_torch(store, tmp_path):
    for arguments in (
        ["info", store],
        ["export", store, "--format", "npz", "--out", tmp_path / "rows.npz"],
        ["copy", store, f"file://{tmp_path / 'copy'}"],
        ["index", store],
        ["compact", store],
    ):
        assert not modules_of("store", *arguments) & (TORCH | {"pandas", "matplotlib", "scipy"}), arguments


def test_searching_for_an_image_that_the_store_holds_imports_no_torch(store):
    held = clzoo.open_store(store)
    for query in (held.root / held.paths[0], held.paths[0], held.ids[0]):
        assert not modules_of("search", store, query) & TORCH


def test_loading_a_model_and_embedding_import_no_compiler(store, tmp_path):
    Image.new("RGB", (40, 40), "red").save(tmp_path / "new.png")
    for arguments in (
        ["search", store, tmp_path / "new.png", "--model", store.parent / "model"],
        ["embed", clzoo.open_store(store).root, "--out", store, "--model", store.parent / "model"],
        ["embed", tmp_path, "--out", tmp_path / "other", "--model", store.parent / "model"],
    ):
        assert "torch" in (found := modules_of(*arguments))
        assert not found & COMPILER, arguments


def test_faiss_is_not_imported_by_anything_but_the_index(store, tmp_path):
    assert "faiss" not in modules_after("import clzoo.encoder, clzoo.zoo, clzoo.embed, clzoo.pretrain.loop")
    assert "faiss" not in modules_of("store", "export", store, "--format", "npz", "--out", tmp_path / "rows.npz")
