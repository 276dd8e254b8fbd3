import itertools
import math

import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck

from clzoo.errors import ClzooError
from clzoo.losses import blocks, info_nce_queue, potential_samples
from clzoo.losses.potential_samples import (
    _log_negative_weights,
    _positive_weights,
    _sure_positive_weights,
    mutual_neighbors,
)

G = torch.Generator().manual_seed(0)
Z, KEY = torch.randn(2, 6, 5, dtype=torch.float64, generator=G)
QUEUE = torch.randn(40, 5, dtype=torch.float64, generator=G)
T, A, B, BETA, BAND = 0.2, 12.5, 0.5, 1.0, (0.05, 0.5)


def loop_written(positives, negatives, mined_mass=1.0):
    total = 0.0
    queue = F.normalize(QUEUE, dim=1)
    for z, key in zip(F.normalize(Z, dim=1), F.normalize(KEY, dim=1), strict=True):
        by_key = [float(key @ u) for u in queue]
        mined = sorted(range(40), key=lambda j: -by_key[j])[:5] if positives != "aug_only" else []
        hard = [0.5, *[0.1] * 5]
        soft = torch.softmax(torch.tensor([1.0, *(by_key[j] for j in mined)], dtype=torch.float64) / 0.1, 0).tolist()
        weights = {"aug_only": [1.0], "hard": hard, "soft": soft, "both": [(h + s) / 2 for h, s in zip(hard, soft, strict=False)]}  # fmt: skip # noqa: E501
        omega = [mined_mass * w for w in weights[positives]]
        omega[0] += 1 - mined_mass
        rest = [j for j in range(40) if j not in mined]
        s, s_key = {j: float(z @ queue[j]) for j in rest}, float(z @ key)
        if negatives == "near_positive":
            v = {j: math.exp(-A * (s[j] - s_key + B) ** 2) for j in rest}
        elif negatives == "hcl":
            v = {j: math.exp(BETA * s[j] / T) for j in rest}
        elif negatives == "band":
            ranked = sorted(rest, key=lambda j: -s[j])
            kept = ranked[int(0.05 * len(rest)) : len(rest) - int(0.5 * len(rest))]
            v = {j: float(j in kept) for j in rest}
        else:
            v = dict.fromkeys(rest, 1.0)
        scale = len(rest) / sum(v.values()) if negatives in ("near_positive", "hcl") else 1.0
        repulsion = scale * sum(v[j] * math.exp(s[j] / T) for j in rest)
        attractions = [math.exp(x / T) for x in (s_key, *(float(z @ queue[j]) for j in mined))]
        total += sum(w * -math.log(e / (e + repulsion)) for w, e in zip(omega, attractions, strict=True)) / len(Z)
    return total


MODES = list(itertools.product(["aug_only", "hard", "soft", "both"], ["near_positive", "band", "all", "hcl"]))


@pytest.mark.parametrize(("positives", "negatives"), MODES)
def test_every_mode_equals_a_reference_written_in_loops(positives, negatives):
    value = potential_samples(Z, KEY, QUEUE, positives=positives, negatives=negatives, b=B).item()
    assert value == pytest.approx(loop_written(positives, negatives), abs=1e-10)


def test_the_mined_mass_blends_from_the_view_alone():
    value = potential_samples(Z, KEY, QUEUE, b=B, mined_mass=0.3).item()
    assert value == pytest.approx(loop_written("both", "near_positive", mined_mass=0.3), abs=1e-10)


def test_no_mining_and_plain_negatives_are_exactly_moco_v2():
    value = potential_samples(Z, KEY, QUEUE, positives="aug_only", negatives="all").item()
    assert value == pytest.approx(info_nce_queue(Z, KEY, QUEUE, T).item(), abs=1e-12)


@pytest.mark.parametrize("mode", ["aug_only", "hard", "soft", "both"])
def test_positive_weights_sum_to_one(mode):
    scores = torch.rand(7, 0 if mode == "aug_only" else 5)
    assert torch.allclose(_positive_weights(scores, mode, 0.5, 0.5, 0.1, 0.7).sum(dim=1), torch.ones(7))


@pytest.mark.parametrize("mode", ["near_positive", "all", "hcl", "band"])
def test_mined_positives_are_never_negatives_and_weights_have_mean_one(mode):
    scores, mined = torch.rand(7, 40, dtype=torch.float64), torch.arange(35).view(7, 5)
    v = _log_negative_weights(scores, scores[:, :1], mined, mode, a=A, b=B, beta=BETA / T, band=BAND).exp()
    assert (v.gather(1, mined) == 0).all()
    if mode == "band":  # of 35: the hardest and the easiest 17 are dropped
        assert (v.sum(dim=1) == 17).all()
    else:
        assert torch.allclose(v.sum(dim=1), torch.full((7,), 35.0, dtype=torch.float64))


def test_an_empty_band_keeps_one_negative():
    loss = potential_samples(Z, KEY, QUEUE, negatives="band", band=(0.6, 0.6))
    assert torch.isfinite(loss)
    assert loss > 0


def test_equal_similarities_are_no_trouble():
    z = torch.ones(4, 3).requires_grad_()
    for positives, negatives in MODES:
        loss = potential_samples(z, torch.ones(4, 3), torch.ones(12, 3), positives=positives, negatives=negatives)
        assert torch.isfinite(torch.autograd.grad(loss, z)[0]).all()


def test_gradient_reaches_only_the_query_and_passes_by_the_weights():
    key = KEY.clone().requires_grad_()
    potential_samples(Z.clone().requires_grad_(), key, QUEUE).backward()
    assert key.grad is None

    # With weights held constant at their values the loss is an ordinary function, and has the same gradient.
    z = Z.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(potential_samples(z, KEY, QUEUE, b=B), z)
    unit, queue, key = F.normalize(Z, dim=1), F.normalize(QUEUE, dim=1), F.normalize(KEY, dim=1)
    scores, mined = (key @ queue.T).topk(5, dim=1)
    omega = _positive_weights(scores, "both", 0.5, 0.5, 0.1, 1.0)
    s_key = (unit * key).sum(1, keepdim=True)
    log_v = _log_negative_weights(unit @ queue.T, s_key, mined, "near_positive", a=A, b=B, beta=BETA, band=BAND)

    def constant_weights(z):
        u = F.normalize(z, dim=1)
        s = u @ queue.T
        attraction = torch.cat([(u * key).sum(1, keepdim=True), s.gather(1, mined)], 1) / T
        repulsion = (log_v + s / T).logsumexp(1, keepdim=True)
        return (omega * (torch.logaddexp(attraction, repulsion) - attraction)).sum(1).mean()

    assert gradcheck(constant_weights, z)
    (expected,) = torch.autograd.grad(constant_weights(z), z)
    assert torch.allclose(gradient, expected, atol=1e-12)


def test_the_weight_is_centred_on_the_key_by_default():
    assert potential_samples(Z, KEY, QUEUE).item() == potential_samples(Z, KEY, QUEUE, b=0.0).item()
    assert potential_samples(Z, KEY, QUEUE).item() != potential_samples(Z, KEY, QUEUE, b=0.5).item()


@pytest.mark.parametrize("positives", ["aug_only", "hard", "soft", "both"])
def test_the_second_reading_equals_a_reference_written_in_loops(positives):
    weak = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    queue = F.normalize(QUEUE, dim=1)
    similarity = F.normalize(weak, dim=1) @ queue.T
    bar = sorted(similarity.amax(dim=1).tolist())  # the 75th percentile of six values lies between the 4th and the 5th
    bar = bar[3] + 0.75 * (bar[4] - bar[3])
    total = 0.0
    for z, key, g in zip(F.normalize(Z, dim=1), F.normalize(KEY, dim=1), similarity.tolist(), strict=True):
        mined = sorted(range(40), key=lambda j: -g[j])[:5] if positives != "aug_only" else []
        weights = [0.0] * 5
        if positives in ("hard", "both"):
            weights[0] += (1.0 if positives == "hard" else 0.5) * 0.5 * (g[mined[0]] > bar)
        if positives in ("soft", "both"):
            e = [math.exp(g[j] / 0.05) for j in mined]
            e = [x / sum(e) for x in e]
            confidence = 1 + sum(x * math.log(x) for x in e) / math.log(5)
            weights = [
                w + (1.0 if positives == "soft" else 0.5) * confidence * x for w, x in zip(weights, e, strict=True)
            ]
        weights = [0.4 * w for w in weights]  # the mined mass
        repulsion = sum(math.exp(float(z @ queue[j]) / T) for j in range(40) if j not in mined)
        for weight, u in [(1 - sum(weights), key), *zip(weights, queue[mined], strict=False)]:
            e = math.exp(float(z @ u) / T)
            total -= weight * math.log(e / (e + repulsion)) / 6
    value = potential_samples(
        Z, KEY, QUEUE, positives=positives, negatives="all", tau_w=0.05, mined_mass=0.4, weak=weak
    )
    assert value.item() == pytest.approx(total, abs=1e-10)


def test_no_gradient_reaches_the_weak_view_and_one_neighbor_alone_is_sure():
    weak = KEY.clone().requires_grad_()
    loss = potential_samples(Z.clone().requires_grad_(), KEY, QUEUE, weak=weak, k=1, tau_w=0.05)
    loss.backward()
    assert weak.grad is None
    assert torch.isfinite(loss)
    omega = _sure_positive_weights(torch.rand(7, 5), torch.arange(7) > 3, "both", 0.5, 0.5, 0.05, 0.7)
    assert torch.allclose(omega.sum(dim=1), torch.ones(7))
    assert (omega >= 0).all()
    alone = _sure_positive_weights(torch.rand(7, 1), torch.ones(7) > 0, "soft", 0.5, 0.5, 0.05, 1.0)
    assert torch.allclose(alone, torch.tensor([0.0, 1.0]).expand(7, 2))


def test_mutual_neighbors_are_counted_among_queue_and_batch(monkeypatch):
    weak = torch.tensor([[1.0, 0.0, 0.0], [0.9, 0.1, 0.0], [0.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    queue = torch.tensor([[1.0, 0.01, 0.0], [0.0, 1.0, 0.2], [0.0, 1.0, 0.21], [0.1, 0.0, 1.0]])
    # 0: mutual. 1: the same entry, which 0 is nearer to. 2: its entry is nearer to another entry. 3: mutual.
    assert mutual_neighbors(weak, queue).item() == 0.5
    monkeypatch.setattr(blocks, "MEMORY_BUDGET", 4 * 8)  # a row at a time
    assert mutual_neighbors(weak, queue).item() == 0.5


def test_a_queue_shorter_than_the_mining_is_refused():
    with pytest.raises(ClzooError, match="5 entries"):
        potential_samples(Z, KEY, QUEUE[:5])
