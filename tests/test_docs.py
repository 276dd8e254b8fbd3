"""The code in docs/ runs."""

import importlib
import inspect
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
import yaml
from fake_checkpoints import SHIPPED, FakeZoo, shrunk

import clzoo

DOCS = Path(__file__).resolve().parent.parent / "docs"


def test_the_loss_of_the_worked_example_runs_and_trains():
    first_block = re.search(r"```python\n(.*?)```", (DOCS / "add_a_method.md").read_text(), re.DOTALL)
    names: dict = {}
    exec(first_block.group(1), names)
    z = torch.randn(2, 8, 4, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = names["surprise"](z, temperature=0.2)
    loss.backward()
    assert loss > 0
    assert z.grad.abs().sum() > 0


def test_links_between_the_documents_lead_somewhere():
    root = DOCS.parent
    for document in (*root.glob("*.md"), *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"


def test_the_papers_to_cite_are_those_of_the_four_methods():
    citation = yaml.safe_load((DOCS.parent / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == clzoo.__version__
    papers = {paper["url"].rpartition("/")[2]: paper for paper in citation["references"]}
    assert set(papers) == {"2105.03746", "2410.18200", "2211.01796", "2311.00358"}
    methods = (DOCS.parent / "clzoo" / "methods").glob("*.py")
    code = "".join(path.read_text(encoding="utf-8") for path in methods)
    for number, paper in papers.items():
        assert f"{paper['authors'][0]['family-names']} et al." in code
        assert f"arXiv {number}" in code
        assert paper["identifiers"] == [{"type": "other", "value": f"arXiv:{number}"}]


def walk(title: str) -> list[str]:
    """The files of the first list under a heading of docs/architecture.md."""
    section = (DOCS / "architecture.md").read_text(encoding="utf-8").partition(f"## {title}\n")[2]
    first = re.search(r"^1\. .*?(?=\n\n)", section, re.DOTALL | re.MULTILINE)
    return re.findall(r"^\d+\. `clzoo/([^`]+)`", first.group(), re.MULTILINE)


def files_entered(call) -> list[str]:
    """Files of clzoo in the order in which the call runs their functions, each time anew."""
    package, entered = str(DOCS.parent / "clzoo") + "/", []

    def note(frame, event, _):
        file = frame.f_code.co_filename
        if event == "call" and file.startswith(package) and entered[-1:] != [file[len(package) :]]:
            entered.append(file[len(package) :])

    threading.setprofile(note)
    sys.setprofile(note)
    try:
        call()
    finally:
        sys.setprofile(None)
        threading.setprofile(None)
    return entered


def assert_in_order(files: list[str], entered: list[str]) -> None:
    rest = iter(entered)
    for file in files:
        assert file in rest, f"{file} is not entered after those before it"  # `in` consumes the iterator


def test_the_walks_name_files_in_the_order_in_which_they_are_passed(tmp_path, monkeypatch):
    picture = next((DOCS.parent / "examples" / "pictures").glob("*/*.jpg"))
    zoo = FakeZoo(tmp_path, shrunk(SHIPPED["mocov3-resnet50-in1k"])).use(monkeypatch)

    def load():
        return clzoo.load(zoo.config.name, "cpu", cache_dir=zoo.cache, offline=True)

    load().embed(picture)  # what is imported on first use is imported
    shutil.rmtree(zoo.cache / "models")
    name_to_encoder, image_to_vector = walk("A name to an encoder"), walk("An image to a vector")
    assert len(name_to_encoder) == 12
    assert len(image_to_vector) == 7
    assert_in_order(name_to_encoder, files_entered(load))
    encoder = load()
    assert_in_order(image_to_vector, files_entered(lambda: encoder.embed(picture)))


def test_every_file_that_the_walks_name_is_there():
    for file in re.findall(r"`(clzoo/[^`]+\.py)`", (DOCS / "architecture.md").read_text(encoding="utf-8")):
        assert (DOCS.parent / file).is_file(), file


FOLDERS = ("zoo", "embed", "index", "evaluation", "export", "lite", "losses", "methods", "augment")
PUBLIC = ("clzoo", *(f"clzoo.{name}" for name in FOLDERS))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_explained(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for export in module.__all__:
        thing = getattr(module, export)
        if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
            assert inspect.getdoc(thing), export
        if inspect.isclass(thing):
            own = {key: value for key, value in vars(thing).items() if not key.startswith("_")}
            methods = {key for key, value in own.items() if inspect.isroutine(value) or isinstance(value, property)}
            assert [key for key in sorted(methods) if not inspect.getdoc(getattr(thing, key))] == [], export


@pytest.mark.slow
def test_the_site_is_built_and_a_dead_link_fails(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    pytest.importorskip("griffe")
    root = shutil.copytree(DOCS.parent / "docs", tmp_path / "docs").parent
    for name in ("clzoo", "recipes", "hub"):
        (root / name).symlink_to(DOCS.parent / name)
    for file in (*DOCS.parent.glob("*.md"), DOCS.parent / "mkdocs.yml", DOCS.parent / "CITATION.cff"):
        shutil.copy(file, root)
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    subprocess.run(build, cwd=root, check=True)
    with (root / "docs" / "store.md").open("a") as page:
        page.write("[there](search.md#no-such-part)")
    dead = subprocess.run(build, cwd=root, capture_output=True, text=True)
    assert dead.returncode != 0
    assert "store.html: search.html#no-such-part" in dead.stderr
