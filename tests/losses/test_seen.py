"""What a loss says of its pairs is what its gradient does to them."""

import pytest
import torch
from test_blocks import CALLS, LABELS, QUEUE, TARGET, Z

import clzoo.losses as losses
from clzoo.losses import blocks
from clzoo.losses.embeddings import unit
from clzoo.losses.reco import info_nce_without, reco_global_batch
from clzoo.losses.seen import Seen, is_watched, watching

UNIT, KEYS = unit(QUEUE), unit(Z[1])


def watched(call, z) -> tuple[torch.Tensor, Seen]:
    """The gradient of a loss, and what it noted on the way."""
    with watching() as seen:
        loss = call(z)
    return torch.autograd.grad(loss, z)[0], seen


def weights_of(seen: Seen, role: str, call: int = 0) -> list[torch.Tensor]:
    return [term.weights for term in seen.terms() if term.role == role and term.call == call]


def tangential(pulls: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """The gradient on z (N, D) of sum <pulls, unit(z)>: what is left of it on the sphere."""
    u = unit(z)
    return (pulls - (pulls * u).sum(dim=1, keepdim=True) * u) / z.norm(dim=1, keepdim=True)


ONE_WAY = {
    "info_nce_queue": (lambda z: losses.info_nce_queue(z, Z[1], QUEUE, 0.3), 0.3),
    "info_nce_keys": (lambda z: losses.info_nce_keys(z, Z[1], TARGET, 0.3), 0.3),
    "info_nce_without": (lambda z: info_nce_without(z, Z[1], Z[1], TARGET[:, None], 0.3, QUEUE), 0.3),
    "potential_samples": (lambda z: losses.potential_samples(z, Z[1], QUEUE, temperature=0.3), 0.3),
    "potential_samples_band": (lambda z: losses.potential_samples(z, Z[1], QUEUE, temperature=0.3, weak=Z[2],
                                                                  negatives="band"), 0.3),
}  # fmt: skip


@pytest.mark.parametrize("name", ONE_WAY)
def test_against_constant_keys_the_weights_are_the_gradient(name):
    call, temperature = ONE_WAY[name]
    z = Z[0].clone().requires_grad_()
    gradient, seen = watched(call, z)
    forces = torch.zeros_like(z)
    for term in seen.terms():
        parts = {"own": KEYS[:, None], "images": KEYS.expand(12, 12, 6), "queue": UNIT.expand(12, 20, 6)}
        against = torch.cat([parts[column] for column in term.columns], dim=1)  # (N, C, D)
        sign = -1 if term.role == "attraction" else 1
        forces += sign * torch.einsum("nc,ncd->nd", term.weights, against)
    assert torch.allclose(tangential(forces, z.detach()) / temperature / 12, gradient, atol=1e-10)


def test_cacr_in_its_three_forms():
    z = Z.clone().requires_grad_()
    gradient, seen = watched(lambda z: losses.cacr(z, t_pos=1.5, t_neg=2, symmetric=True, detach_weights=True), z)
    u, forces = unit(Z), torch.zeros_like(Z)
    for term in seen.terms():
        (v,) = term.queries
        if term.role == "attraction":  # dD = -2 ds, a mean over 3 x 12; each pair is met from both sides
            force = -2 * term.weights[:, :, None] / 36  # (N, V, 1)
            forces[v] += (force * u.transpose(0, 1)).sum(dim=1)
            forces += force.transpose(0, 1) * u[v]
        else:  # mean over 6 pairs of views
            (other,) = term.keys
            force = 2 * term.weights / 72
            forces[v] += force @ u[other]
            forces[other] += force.T @ u[v]
    assert torch.allclose(tangential(forces.flatten(0, 1), Z.flatten(0, 1)).view_as(Z), gradient, atol=1e-10)

    z = Z.clone().requires_grad_()
    constant = Z.roll(1, dims=1)
    gradient, seen = watched(lambda z: losses.cacr_queue(z, constant, QUEUE, t_pos=1, t_neg=2, beta=3.0), z)
    forces, k = torch.zeros_like(Z), unit(constant)
    for term in seen.terms():
        (v,) = term.queries
        if term.role == "attraction":
            forces[v] -= 2 * torch.einsum("nu,und->nd", term.weights, k) / 36
        else:
            force = 3 * 2 * term.weights / 36
            forces[v] += force @ torch.cat([u[v], UNIT]) + force[:, :12].T @ u[v]
    assert torch.allclose(tangential(forces.flatten(0, 1), Z.flatten(0, 1)).view_as(Z), gradient, atol=1e-10)

    z = Z[1:].clone().requires_grad_()
    gradient, seen = watched(lambda z: losses.cacr_momentum(z, Z[0], TARGET, 0.3), z)
    pulls, pushes = weights_of(seen, "attraction"), weights_of(seen, "repulsion")
    assert len(seen.terms()) == 4
    for v in range(2):
        force = 2 * (pushes[v] - pulls[v]) @ unit(Z[0]) / 12
        assert torch.allclose(tangential(force, Z[1 + v]), gradient[v], atol=1e-10)


@pytest.mark.parametrize("name", ["info_nce", "sup_con", "hcl"])
def test_among_two_views_the_weights_are_the_gradient(name):
    calls = {
        "info_nce": lambda z: losses.info_nce(z, 0.3),
        "sup_con": lambda z: losses.sup_con(z, LABELS, 0.3),
        # beta = 0: weights without gradient; the correction for hidden positives pulls on the positive too
        "hcl": lambda z: losses.hcl(z, temperature=0.3, tau_plus=0.0, beta=0.0),
    }
    z = Z[:2].clone().requires_grad_()
    gradient, seen = watched(calls[name], z)
    (pull,), (push,) = weights_of(seen, "attraction"), weights_of(seen, "repulsion")
    both = unit(Z[:2]).flatten(0, 1)
    force = (push - pull) / 0.3 / 24  # (2N, 2N)
    found = tangential((force + force.T) @ both, Z[:2].flatten(0, 1)).view(2, 12, 6)
    assert torch.allclose(found, gradient, atol=1e-10)


def test_hcl_says_how_hard_and_how_much():
    with watching() as seen:
        loss = losses.hcl(Z[:2], temperature=0.5, tau_plus=0.1, beta=1.0)
    pull, push = seen.terms()
    assert push.beside is not None
    assert torch.allclose(push.beside[1].sum(dim=1), torch.ones(24, dtype=torch.float64))
    own = 1 - pull.weights.sum(dim=1)  # e^{s+} / total
    assert -own.log().mean().item() == pytest.approx(loss.item())


def test_align_uniform():
    z = Z[:2].clone().requires_grad_()
    gradient, seen = watched(lambda z: losses.align_uniform(z, w_uniform=0.0, alpha=3.0), z)
    pull = weights_of(seen, "attraction")[0]
    x, y = unit(Z[:2])
    assert torch.allclose(tangential(-pull * y, Z[0]) / 12, gradient[0], atol=1e-10)
    push = weights_of(seen, "repulsion")
    distance = torch.cdist(x, x).square()
    expected = (-2 * distance).exp().fill_diagonal_(0)
    assert torch.allclose(push[0], expected / expected.sum(dim=1, keepdim=True), atol=1e-10)
    assert [term.queries for term in seen.terms()] == [(0,), (0,), (1,)]


def test_hydra_through_its_gates():
    gates = Z[2].sigmoid()
    z = Z[0].clone().requires_grad_()
    partners = LABELS.roll(1)
    gradient, seen = watched(lambda z: losses.hydra_pair(z, Z[1], gates, LABELS, partners, LABELS, 0.2), z)
    gate, pull, push = seen.terms()
    assert torch.equal(gate.weights, gates)
    same_class = LABELS[:, None] == LABELS
    assert (pull.weights > 0).equal(partners[:, None] == LABELS)
    assert push.weights[same_class].count_nonzero() == 0
    forces = torch.zeros_like(z)
    for i in range(12):
        keys = unit(gates[i] * Z[1])
        gated = gates[i] * Z[0, i]
        force = tangential(((push.weights - pull.weights)[i] @ keys)[None], gated[None])[0]
        forces[i] = gates[i] * force / 0.2
    count = (partners[:, None] == LABELS).sum()
    assert torch.allclose(forces / count, gradient, atol=1e-10)


@pytest.mark.parametrize("bins", ["queue", "images"])
def test_reco_relates(bins):
    calls = {
        "queue": (lambda z: losses.reco_global(z, Z[1], QUEUE, 0.1, 0.04), UNIT),
        "images": (lambda z: reco_global_batch(z, Z[1], 0.1, 0.04), unit(Z[1])),
    }
    call, against = calls[bins]
    z = Z[0].clone().requires_grad_()
    gradient, seen = watched(call, z)
    (relation,) = seen.terms()
    assert relation.columns == (bins,)
    assert relation.beside is not None
    force = (relation.beside[1] - relation.weights) @ against / 0.1 / 12
    assert torch.allclose(tangential(force, Z[0]), gradient, atol=1e-10)


@pytest.mark.parametrize("name", list(CALLS))
def test_every_loss_notes_its_weights_alike_in_blocks_and_changes_nothing_by_it(name, monkeypatch):
    plain = CALLS[name](Z)
    with watching() as seen:
        assert CALLS[name](Z) == plain
    terms = seen.terms()
    assert {term.role for term in terms} >= {"relation"} or {term.role for term in terms} >= {"attraction", "repulsion"}
    assert all(term.weights.isfinite().all() for term in terms)
    monkeypatch.setattr(blocks, "MEMORY_BUDGET", 8 * 5 * 24)
    with watching() as blocked:
        CALLS[name](Z)
    for a, b in zip(terms, blocked.terms(), strict=True):
        assert (a.role, a.columns, a.queries, a.keys) == (b.role, b.columns, b.queries, b.keys)
        assert torch.allclose(a.weights, b.weights, atol=1e-12)


def test_nobody_watches_and_nothing_is_kept():
    assert not is_watched()
    with watching() as seen:
        assert is_watched()
    losses.info_nce(Z[:2], 0.3)
    assert seen.terms() == []
