"""The code in docs/ runs."""

import re
from pathlib import Path

import torch

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
    for document in (root / "README.md", *DOCS.glob("*.md")):
        for target in re.findall(r"\]\((?!https?:)([^)#]+)", document.read_text(encoding="utf-8")):
            assert (document.parent / target).exists(), f"{document.name} links to {target}"
