"""The code in docs/ runs."""

import ast
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from fake_checkpoints import SHIPPED, FakeZoo, shrunk
from picture_folders import make_folder

import clzoo

DOCS = Path(__file__).resolve().parent.parent / "docs"


def worked_example(checkout: Path) -> None:
    """A copy of clzoo with what docs/add_a_method.md adds to it: a loss, a method, one line, a recipe."""
    root, text = DOCS.parent, (DOCS / "add_a_method.md").read_text(encoding="utf-8")
    loss, method = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (line,) = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    shutil.copytree(root / "clzoo", checkout / "clzoo", ignore=shutil.ignore_patterns("__pycache__"))
    (checkout / "hub").mkdir()
    (checkout / "recipes").mkdir()
    for file, code in (("losses", loss), ("methods", method)):
        assert f"`clzoo/{file}/surprise.py`" in text
        (checkout / "clzoo" / file / "surprise.py").write_text(code)
    registry = checkout / "clzoo" / "methods" / "__init__.py"
    before, files, after = registry.read_text().partition("_FILES = (\n")
    assert line.count("\n") == 1
    registry.write_text(before + files + line + after)
    recipe = yaml.safe_load((root / "recipes" / "simclr_cifar10.yaml").read_text())
    recipe |= yaml.safe_load(re.search(r"```yaml\n(.*?)```", text, re.DOTALL).group(1))
    (checkout / "recipes" / "surprise_cifar10.yaml").write_text(yaml.safe_dump(recipe))


def test_the_worked_example_of_a_method_trains_after_one_line_and_is_known_everywhere(tmp_path, warm_python):
    worked_example(tmp_path / "checkout")
    make_folder(tmp_path / "pictures", {"ant": 8, "bee": 8})
    code = """
import json, sys
sys.path.insert(0, "checkout")
import torch
from clzoo.errors import ClzooError
from clzoo.evaluation.subject import find_subject
from clzoo.losses.surprise import surprise
from clzoo.pretrain.recipe_files import find_recipe, load_recipe
from clzoo.zoo.cards import render_card
from clzoo.cli import main
import clzoo
assert clzoo.__file__.endswith("checkout/clzoo/__init__.py"), clzoo.__file__

z = torch.randn(2, 64, 32, generator=torch.Generator().manual_seed(0)).requires_grad_()
exact = surprise(z, temperature=0.1)
exact.backward()
with torch.autocast("cpu", torch.bfloat16):
    under_autocast = surprise(z, temperature=0.1).item()
x, y = torch.nn.functional.normalize(z.detach().double(), dim=2)
terms = [(1 - x[i] @ y[i]).clamp(min=0) * -(x[i] @ y.T / 0.1).log_softmax(0)[i] for i in range(64)]

small = ["schedule.epochs=1", "schedule.warmup_epochs=0", "schedule.batch_size=8", "method.projector=[8]",
         "backbone.name=resnet10t_038e03", "backbone.architecture=resnet10t", "backbone.stem_stride=2",
         "backbone.model_args={channels: [4, 8, 8, 8], stem_type: deep, stem_width: 4}"]
try:
    load_recipe(find_recipe("surprise_cifar10"), ["method.powr=2"])
except ClzooError as error:
    unknown = str(error)
try:
    main(["pretrain", "surprise_cifar10", "--data", "pictures", "--out", "run", "--device", "cpu", "--quiet",
          *(word for change in small for word in ("--set", change))])
except SystemExit as end:
    assert not end.code, end.code
subject = find_subject("run", "cpu")
print(json.dumps({
    "exact": exact.item(), "autocast": under_autocast, "loops": (sum(terms) / 64).item(),
    "gradient": z.grad.abs().sum().item(), "unknown": unknown, "state": json.load(open("run/state.json")),
    "title": subject.title, "projector": subject.projector is not None,
    "card": render_card(subject.encoder.config, {"results": []}),
}))
"""
    done = warm_python.run(
        ("-c", f"import os; os.chdir({str(tmp_path)!r})\n{code}"), os.environ | {"PYTHONPATH": ""}, timeout=300
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["autocast"] == found["exact"]
    assert found["exact"] == pytest.approx(found["loops"], rel=1e-5)
    assert found["gradient"] > 0
    assert "unknown key 'method.powr': did you mean 'power'?" in found["unknown"]
    assert found["state"]["finished"]
    assert found["state"]["steps"] == 2
    assert found["state"]["encoder_forwards"] == 2 * 2 * 8
    assert found["projector"]
    assert "[Surprise](https://arxiv.org/abs/0000.00000)" in found["card"]
    assert "without labels" in found["card"]


def headings(document: Path) -> set[str]:
    """The anchors of a document's headings, as GitHub and the site name them."""
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title).strip().lower().replace(" ", "-") for title in titles}


def test_links_between_the_documents_lead_somewhere():
    root = DOCS.parent
    for document in (*root.glob("*.md"), *DOCS.glob("*.md")):
        text = document.read_text(encoding="utf-8")
        for target, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text):
            place = document.parent / target if target else document
            assert place.exists(), f"{document.name} links to {target}"
            if anchor and place.suffix == ".md":
                assert anchor in headings(place), f"{document.name} links to {target}#{anchor}"


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
    assert len(name_to_encoder) == 13
    assert len(image_to_vector) == 7
    assert_in_order(name_to_encoder, files_entered(load))
    encoder = load()
    assert_in_order(image_to_vector, files_entered(lambda: encoder.embed(picture)))


def test_every_file_that_the_walks_name_is_there():
    for file in re.findall(r"`(clzoo/[^`]+\.py)`", (DOCS / "architecture.md").read_text(encoding="utf-8")):
        assert (DOCS.parent / file).is_file(), file


def public_modules() -> list[str]:
    """Those that the site has a page of, from the one list of them."""
    nav = (DOCS.parent / "mkdocs.yml").read_text(encoding="utf-8")
    return re.findall(r"reference/(clzoo[\w.]*)\.md", nav)


PUBLIC = public_modules()


def test_the_site_and_its_hooks_have_one_list_of_public_modules():
    hooks = (DOCS / "_site" / "hooks.py").read_text(encoding="utf-8")
    names = ast.literal_eval(re.search(r"^PUBLIC = (\(.*?^\))", hooks, re.DOTALL | re.MULTILINE)[1])
    assert {".".join(filter(None, ("clzoo", name))) for name in names} == set(PUBLIC)
    assert len(PUBLIC) == 13


def test_the_names_of_all_public_modules_are_promised():
    promised = re.search(r"\| public names of Python: (.*?) \|", (DOCS / "compatibility.md").read_text())[1]
    assert set(re.findall(r"`(clzoo[\w.]*)`", promised)) == set(PUBLIC)


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_explained(name):
    module = importlib.import_module(name)
    assert module.__doc__
    for export in module.__all__:
        thing = getattr(module, export)
        if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
            assert inspect.getdoc(thing), export
        if inspect.isclass(thing):
            fields = getattr(thing, "__dataclass_fields__", ())  # whose defaults may be functions
            own = {key: value for key, value in vars(thing).items() if not key.startswith("_") and key not in fields}
            methods = {key for key, value in own.items() if inspect.isroutine(value) or isinstance(value, property)}
            assert [key for key in sorted(methods) if not inspect.getdoc(getattr(thing, key))] == [], export


@pytest.mark.slow
def test_the_site_is_built_and_a_dead_link_fails(tmp_path):
    pytest.importorskip("mkdocs", reason="make docs installs it")
    pytest.importorskip("griffe")
    root = shutil.copytree(DOCS.parent / "docs", tmp_path / "docs").parent
    for name in ("clzoo", "recipes", "hub", "examples"):
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
