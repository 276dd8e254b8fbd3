"""Every method says which views and which queue the weights of its losses are between."""

import pytest
import torch
from tiny import OPTIONS, VIEWS, tiny_batch, tiny_method

from clzoo.losses.seen import watching


@pytest.mark.parametrize("kind", OPTIONS)
def test_rows_and_columns_are_views_of_the_batch_and_entries_of_the_queue(kind):
    batch, views = tiny_batch(kind), range(VIEWS.get(kind, 2))
    expected = tiny_method(kind)(batch)
    method = tiny_method(kind)
    with watching() as seen:
        assert method(batch) == expected  # watching changes nothing
    assert {term.role for term in seen.terms()} >= {"attraction", "repulsion"}
    for term in seen.terms():
        for view in (*term.queries, *term.keys):
            assert view in views if isinstance(view, int) else view.shape == batch.views[0].shape
        assert len(term.weights) == len(term.queries) * len(batch)
        if term.role != "gate":
            widths = {"own": len(term.keys), "images": len(batch) * len(term.keys), "queue": 16}
            assert term.weights.shape[1] == sum(widths[part] for part in term.columns)
            assert term.beside is None or term.beside[1].shape == term.weights.shape


@pytest.mark.parametrize("kind", ["mocov3", "hydra_moco", "hydra"])
def test_each_direction_names_its_views(kind):
    with watching() as seen:
        tiny_method(kind)(tiny_batch(kind))
    ways = [(term.queries, term.keys) for term in seen.terms() if term.role == "repulsion"]
    assert set(ways) == {((0,), (1,)), ((1,), (0,))}


def test_cacr_momentum_names_the_views_that_query_each_target():
    with watching() as seen:
        tiny_method("cacr_momentum")(tiny_batch("cacr_momentum"))
    ways = [(term.queries, term.keys) for term in seen.terms() if term.role == "repulsion"]
    assert ways == [((1,), (0,)), ((2,), (0,)), ((0,), (1,)), ((2,), (1,))]


def test_recos_mixture_is_shown_itself():
    with watching() as seen:
        tiny_method("reco")(tiny_batch("reco"))
    mixed = [view for term in seen.terms() for view in term.queries if isinstance(view, torch.Tensor)]
    assert len(mixed) == 2  # it attracts and repels
    batch = tiny_batch("reco").views
    assert all(torch.isin(mixed[0], torch.cat(batch[:2])).flatten())
