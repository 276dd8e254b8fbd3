"""`compile: true`: a run in pieces ends bit for bit as one that nobody stopped, and loses what a plain one loses."""

import copy

import pytest
import torch
from small_recipes import small_recipe
from small_runs import lines_of, same, weights_of

from clzoo.errors import ClzooError
from clzoo.losses import info_nce
from clzoo.losses.seen import watching
from clzoo.methods import METHODS, Batch
from clzoo.pretrain.build import build_method, compile_networks, compile_step
from clzoo.pretrain.loop import pretrain

# One block and no convolution but the first: compiled in seconds.
ONE_BLOCK = (
    "backbone.architecture=vit_tiny_patch16_224",
    "backbone.model_args={img_size: 32, patch_size: 16, embed_dim: 16, depth: 1, num_heads: 2}",
    "backbone.stem_stride=null",
    "backbone.zero_init_last=null",
    "schedule.epochs=0.5",  # four steps
)
SLOW = pytest.mark.slow
OF_ONE_BLOCK = [  # a queue and its keys; five views; classes
    "mocov2_cifar10",
    pytest.param("cacr_cifar10", marks=SLOW),
    pytest.param("hydra_cifar10", marks=SLOW),
]
FAST = ("simclr_cifar10", "mocov2_cifar10")
KINDS = [*(f"{name}_cifar10" for name in METHODS), "cacr_in1k_queue", "cacr_in1k_vit", "potential_samples_cifar10_weak"]
GRAPHS = [name if name in FAST else pytest.param(name, marks=SLOW) for name in KINDS]


def of_one_block(name, *overrides):
    views = len(small_recipe(name).views)
    return small_recipe(name, *ONE_BLOCK, *(f"views.{number}.size=32" for number in range(views)), *overrides)


def of_two_classes(recipe):
    """A method and a batch for it."""
    torch.manual_seed(1)
    views = [torch.randn(8, 3, policy.size, policy.size) for policy in recipe.view_policies()]
    return build_method(recipe, 2), Batch(views, torch.arange(8) % 2, progress=0.5)


def gradients_of(method):
    return {name: p.grad for name, p in method.named_parameters() if p.grad is not None}


def run(recipe, pictures, out, **options):
    """As in a new process, which has compiled nothing."""
    torch.compiler.reset()
    try:
        return pretrain(recipe, pictures, out, device="cpu", **options)
    finally:
        torch.compiler.reset()


def require_the_same_in_pieces(compiled, plain, pieces, pictures, tmp_path):
    assert run(compiled, pictures, tmp_path / "whole")
    for _ in range(pieces - 1):
        assert not run(compiled, pictures, tmp_path / "pieces", max_minutes=0)  # one step
    assert run(compiled, pictures, tmp_path / "pieces")
    assert same(weights_of(tmp_path / "whole"), weights_of(tmp_path / "pieces"))
    assert run(plain, pictures, tmp_path / "plain")
    found, expected = (
        [line["loss"] for line in lines_of(tmp_path / which) if "loss" in line] for which in ("whole", "plain")
    )
    assert len(found) == len(expected) > 0
    assert found == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize("name", OF_ONE_BLOCK)
def test_a_compiled_run_in_two_pieces_equals_the_uninterrupted_one_bit_for_bit(name, pictures, tmp_path):
    recipe, plain = (of_one_block(name, f"compile={word}") for word in ("true", "false"))
    require_the_same_in_pieces(recipe, plain, 2, pictures, tmp_path)


@SLOW
@pytest.mark.parametrize("name", [f"{method}_cifar10" for method in METHODS])
def test_so_it_does_with_convolutions_and_a_look_between_for_every_method(name, pictures, tmp_path):
    recipe, plain = (small_recipe(name, f"compile={word}", "monitor.every_steps=2") for word in ("true", "false"))
    require_the_same_in_pieces(recipe, plain, 3, pictures, tmp_path)


def test_without_a_compiler_the_error_says_how_to_go_on(pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    monkeypatch.setattr("torch._inductor.config.force_disable_caches", True)
    torch.compiler.reset()
    with pytest.raises(ClzooError, match=r"needs a C\+\+ compiler.*type: --set compile=false"):
        pretrain(of_one_block("simclr_cifar10", "compile=true"), pictures, tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def calls_of_each_network(method, batch):
    counts = []
    for network in (getattr(method, name, None) for name in ("backbone", "momentum_backbone")):
        if network is not None:
            counts.append([])
            network.register_forward_hook(lambda *_, seen=counts[-1]: seen.append(1))
    method(batch)
    return {len(seen) for seen in counts}


@pytest.mark.parametrize("name", [*KINDS, "hydra_tiny", "cacr_tiny"])
def test_a_step_is_one_region_where_each_network_is_passed_once_and_compiling_leaves_the_method_alone(
    name, monkeypatch
):
    regions, networks = [], []
    monkeypatch.setattr(torch, "compile", lambda function, **options: regions.append((function, options)) or function)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *given, **options: networks.append(self))
    method, batch = of_two_classes(small_recipe(name))
    before = set(vars(method))
    step = compile_step(method, method)
    assert bool(regions) == method.one_pass if hasattr(method, "one_pass") else not regions
    assert bool(regions) == (not networks)
    assert vars(method).keys() == before
    for function, options in regions:
        assert function == getattr(method, "loss", method.forward)
        assert options == {"fullgraph": True, "dynamic": False}
    twin = copy.deepcopy(method)
    assert torch.equal(step(batch), twin(batch))
    assert (calls_of_each_network(method, batch) == {1}) == bool(regions)


def test_several_processes_compile_the_networks_since_the_loss_gathers_from_all(monkeypatch):
    networks = []
    monkeypatch.setattr("clzoo.pretrain.build.world_size", lambda: 2)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *given, **options: networks.append(self))
    method = build_method(small_recipe("simclr_cifar10"), None)
    assert compile_step(method, method) is method
    assert networks == [method.backbone, method.projector]


def test_networks_are_compiled_where_they_have_weights_and_each_of_them_once(monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, *given, **options: compiled.append(self))
    for name, count in (("simclr_cifar10", 2), ("reco_cifar10", 4), ("mocov3_cifar10", 5)):
        method = build_method(small_recipe(name), None)
        compile_networks(method)
        trained = {id(p) for network in compiled for p in network.parameters()}
        assert trained == {id(p) for p in method.parameters()}, name
        assert len(compiled) == len({id(network) for network in compiled}) == count
        compiled.clear()


@pytest.mark.parametrize("name", GRAPHS)
def test_forward_and_loss_of_every_method_are_one_graph_once_the_host_has_drawn(name):
    # Without groups: what BatchNorm in groups computes in a graph is another formula (tests/methods/test_momentum.py).
    method, batch = of_two_classes(small_recipe(name, "backbone.batchnorm_groups=1"))
    twin = copy.deepcopy(method)
    prepared = method.prepare(batch) if hasattr(method, "prepare") else ()
    torch.compiler.reset()
    try:  # a break in the graph is an error
        graph = torch.compile(getattr(method, "loss", method.forward), fullgraph=True, backend="eager")
        loss = graph(batch, *prepared)
        loss.backward()
    finally:
        torch.compiler.reset()
    expected = twin(batch)
    expected.backward()
    assert torch.equal(loss, expected)
    assert same(method.state_dict(), twin.state_dict())
    assert same(gradients_of(method), gradients_of(twin))


def test_whoever_watches_a_loss_is_told_of_every_pair_though_a_graph_tells_nothing():
    z = torch.randn(2, 4, 8)
    torch.compiler.reset()
    try:
        graph = torch.compile(lambda z: info_nce(z, 0.5), fullgraph=True, backend="eager")
        assert torch.equal(graph(z), info_nce(z, 0.5))
        with watching() as seen:
            info_nce(z, 0.5)
        assert seen.terms()
    finally:
        torch.compiler.reset()
