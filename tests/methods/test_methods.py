"""What holds for every method."""

import copy
import dataclasses
import inspect
import sys

import pytest
import torch
from tiny import OPTIONS, VIEWS, options_of, tiny_batch, tiny_method
from torch import nn

from clzoo.errors import ClzooError
from clzoo.methods import METHODS, create_method, encoder_forwards

KINDS = list(OPTIONS)


def test_every_method_is_in_this_file():
    assert {options["name"] for options in OPTIONS.values()} == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_a_record_lies_in_the_file_of_its_name_and_names_the_paper_that_the_file_is_about(name):
    file, record = sys.modules[f"clzoo.methods.{name}"], METHODS[name]
    assert file.METHOD is record
    assert f"arXiv {record.arxiv}" in " ".join(file.__doc__.split())
    assert record.title


@pytest.mark.parametrize("name", METHODS)
def test_every_loss_of_a_method_leaves_autocast(name):
    losses = [
        value
        for value in vars(sys.modules[f"clzoo.methods.{name}"]).values()
        if inspect.isfunction(value) and value.__module__.startswith("clzoo.losses.")
    ]
    assert losses
    assert [loss.__name__ for loss in losses if not hasattr(loss, "__wrapped__")] == []  # @full_precision


def test_labels_are_asked_for_by_the_methods_that_learn_from_them():
    labelled = {kind for kind in KINDS if METHODS[OPTIONS[kind]["name"]].labels}
    assert labelled == {"hydra", "hydra_single_view", "hydra_moco", "supcon"}
    for kind in KINDS:
        assert tiny_method(kind).needs.labels == (kind in labelled)
    for kind in labelled:
        with pytest.raises(ClzooError, match="needs labels, but the data have none"):
            create_method(nn.Identity(), 4, options_of(kind), views=VIEWS.get(kind, 2), classes=None)


@pytest.mark.parametrize("kind", KINDS)
def test_gradient_reaches_every_trained_weight_of_backbone_and_heads_and_no_momentum_weight(kind):
    method = tiny_method(kind)
    method(tiny_batch(kind)).backward()
    for name, parameter in method.named_parameters():
        if name.startswith("momentum_"):
            assert not parameter.requires_grad, name
        elif parameter.ndim > 1:
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name  # noqa: PT018


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_is_a_function_of_state_and_batch_alone(kind):
    method = tiny_method(kind)
    twin = copy.deepcopy(method)
    torch.manual_seed(5)
    first = method(tiny_batch(kind))
    torch.manual_seed(99)  # global random state plays no part
    assert twin(tiny_batch(kind)).item() == first.item()
    for name, value in method.state_dict().items():
        assert torch.equal(twin.state_dict()[name], value), name


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_step_against_the_gradient_lowers_the_loss_of_the_same_batch(kind):
    method = tiny_method(kind)
    stepped = copy.deepcopy(method)  # with the queue and the momentum weights as they were
    before = method(tiny_batch(kind))
    before.backward()
    with torch.no_grad():
        for moved, parameter in zip(stepped.parameters(), method.parameters(), strict=True):
            if parameter.grad is not None:
                moved -= 1e-3 * parameter.grad
    assert stepped(tiny_batch(kind)).item() < before.item()


@pytest.mark.parametrize("kind", KINDS)
def test_a_wrong_number_of_views_is_refused_with_the_right_one(kind):
    with pytest.raises(ClzooError, match="needs"):
        tiny_method(kind, views={2: 1, 3: 1}[VIEWS.get(kind, 2)] if kind != "hydra_single_view" else -1)


@pytest.mark.parametrize(("kind", "changes"), [*((kind, {}) for kind in KINDS), ("cacr", {"joint_forward": True})])
def test_views_of_two_sizes_are_refused_where_and_only_where_the_method_joins_them(kind, changes):
    method, batch = tiny_method(kind, **changes), tiny_batch(kind)
    for name in ("backbone", "momentum_backbone"):
        if hasattr(method, name):
            getattr(method, name).insert(0, nn.AdaptiveAvgPool2d(4))  # so they take images of any size
    for larger in range(len(batch.views)):
        views = [nn.functional.interpolate(view, size=6) if v == larger else view for v, view in enumerate(batch.views)]
        sized = dataclasses.replace(batch, views=views)
        sizes = [view.shape[-1] for view in views]
        try:
            method.needs.check_sizes(kind, sizes)
        except ClzooError:
            with pytest.raises(RuntimeError):
                method(sized)
        else:
            assert torch.isfinite(method(sized))


@pytest.mark.parametrize(
    ("kind", "changes"),
    [(kind, {}) for kind in KINDS]
    + [(kind, {term: 0.0}) for kind in ("reco", "reco_batch", "reco_simclr") for term in ("lambda1", "lambda2")],
)
def test_the_encoder_forwards_that_are_reported_are_those_that_are_made(kind, changes):
    method, batch = tiny_method(kind, **changes), tiny_batch(kind)
    made = []
    for name in ("backbone", "momentum_backbone"):
        if hasattr(method, name):
            getattr(method, name).register_forward_hook(lambda _, images, __: made.append(len(images[0])))
    method(batch)
    assert sum(made) == encoder_forwards(options_of(kind, **changes), len(batch.views)) * len(batch.views[0])


@pytest.mark.parametrize("kind", ["simclr", "cacr"])
def test_a_head_without_batchnorm_treats_each_image_alone(kind):
    batch = tiny_batch(kind)
    for batchnorm in (True, False):
        head = tiny_method(kind, projector_batchnorm=batchnorm).projector
        features = batch.views[0].flatten(1)[:, :6]
        alone = head(features)[:4]
        assert torch.allclose(alone, head(features[:4]), atol=1e-6) is not batchnorm
