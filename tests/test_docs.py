"""The code in docs/ runs."""

import re
from pathlib import Path

import torch
import yaml

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
