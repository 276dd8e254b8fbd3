import dataclasses

import pytest
import torch
import torch.nn.functional as F
from tiny import tiny_batch, tiny_method

from clzoo.augment.mix import cutmix
from clzoo.errors import ClzooError
from clzoo.losses import info_nce_queue
from clzoo.losses.reco import info_nce_without, reco_global_batch
from clzoo.methods import Batch
from clzoo.methods import reco as reco_file
from clzoo.methods.reco import draw_mix, local_target


def test_without_its_two_terms_it_is_moco_v2_exactly():
    reco, moco = tiny_method("reco", lambda1=0.0, lambda2=0.0), tiny_method("mocov2")
    moco.load_state_dict({k: v for k, v in reco.state_dict().items() if not k.startswith("weak_queue")})
    batch = tiny_batch("reco")
    assert reco(batch).item() == moco(Batch(batch.views[:2], progress=0.5)).item()


def test_an_image_is_mixed_with_its_partners_other_view_inside_the_box():
    batch = tiny_batch("reco", size=8)
    first, second = torch.zeros(8, 3, 32, 32), torch.arange(1.0, 9.0)[:, None, None, None].expand(8, 3, 32, 32)
    partners, boxes, share = draw_mix(dataclasses.replace(batch, views=[first, second]), group=4)
    mixed = cutmix(first, second[partners], boxes)
    for i in range(8):
        values = mixed[i].unique().tolist()
        assert set(values) <= {0.0, float(partners[i] + 1)}
        kept = (mixed[i] == 0).float().mean().item()
        assert kept == pytest.approx(share[i].item(), abs=1e-6)  # lambda of the clipped box, for the outside's image
    assert set(partners[:4].tolist()) == {0, 1, 2, 3}  # partners stay in their group
    assert len(set(share.tolist())) == 2  # one lambda per group


def test_an_empty_box_makes_the_local_term_infonce_with_the_image_itself(monkeypatch):
    monkeypatch.setattr(reco_file, "draw_box", lambda *_: ((0, 0, 0, 0), 1.0))
    batch = tiny_batch("reco")
    full, without = tiny_method("reco", lambda1=0.0), tiny_method("reco", lambda1=0.0, lambda2=0.0)
    local = full(batch).item() - without(batch).item()
    fresh = tiny_method("reco")
    fresh.update_momentum(batch, 0.9)
    q = fresh.query(batch.views[0])
    assert local == pytest.approx(info_nce_queue(q, q.detach(), fresh.queue.entries, 0.2).item(), abs=1e-5)


def local_term(**changes):
    """The local term, and what it is made of: [q, k, v, momentum keys of the first view], partners, lambda, queue."""
    batch = tiny_batch("reco")
    value = tiny_method("reco", lambda1=0.0, **changes)(batch) - tiny_method("reco", lambda1=0.0, lambda2=0.0)(batch)
    fresh = tiny_method("reco")
    fresh.update_momentum(batch, 0.9)
    partners, boxes, share = draw_mix(batch, group=4)
    mixed, order = cutmix(batch.views[0], batch.views[1][partners], boxes), fresh.key_order(batch)
    rows = (fresh.query(batch.views[0]), fresh.shuffled_key(batch.views[1], order), fresh.query(mixed))
    own = fresh.shuffled_key(batch.views[0], order)
    return value.item(), [F.normalize(x.detach().double(), dim=1) for x in (*rows, own)], partners, share, fresh.queue


def test_in_batch_targets_repel_but_for_the_image_its_partner_and_whose_partner_it_is():
    value, (q, k, v, _), partners, share, queue = local_term(local_negatives="batch")
    target = F.normalize(share[:, None] * q + (1 - share[:, None]) * k[partners], dim=1)
    total = 0.0
    for i in range(8):
        involved = {i, int(partners[i]), *(j for j in range(8) if partners[j] == i)}
        others = [v[i] @ target[j] for j in range(8) if j not in involved]
        logits = torch.stack([v[i] @ target[i], *others, *(v[i] @ queue.entries.double().T)]) / 0.2
        total -= float(logits.log_softmax(0)[0]) / 8
    assert value == pytest.approx(total, abs=1e-5)


def test_mixed_keys_come_from_the_momentum_encoder_for_both_images():
    value, (_, k, v, own), partners, share, queue = local_term(target="mixed_keys")
    target = share[:, None] * own + (1 - share[:, None]) * k[partners]
    assert value == pytest.approx(info_nce_queue(v, target, queue.entries.double(), 0.2).item(), abs=1e-5)


@pytest.mark.parametrize("change", [{"target": "mixed_keys"}, {"local_negatives": "batch"}])
def test_the_simclr_host_refuses_what_needs_a_queue_or_a_momentum_encoder(change):
    with pytest.raises(ClzooError, match=r"method\.host=mocov2"):
        tiny_method("reco_simclr", **change)


def test_no_gradient_flows_through_the_local_target():
    own = torch.randn(3, 4, requires_grad=True)
    assert not local_target(own, torch.randn(3, 4), torch.tensor([0.2, 0.5, 1.0])).requires_grad


def test_both_queues_advance_together_with_their_own_keys():
    method = tiny_method("reco")
    method(tiny_batch("reco"))
    assert method.queue.pointer == method.weak_queue.pointer == 8
    assert not torch.equal(method.queue.entries[:8], method.weak_queue.entries[:8])


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ClzooError, match="group=5 does not divide the batch of 8"):
        tiny_method("reco", group=5)(tiny_batch("reco"))


def test_in_a_batch_the_relation_leaves_out_the_image_itself():
    z = torch.randn(2, 5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    q, w = F.normalize(z, dim=2)
    total = 0.0
    for i in range(5):
        others = [j for j in range(5) if j != i]
        teacher = torch.stack([w[i] @ w[j] / 0.04 for j in others]).softmax(0)
        student = torch.stack([q[i] @ w[j] / 0.1 for j in others]).log_softmax(0)
        total -= float((teacher * student).sum()) / 5
    assert reco_global_batch(z[0], z[1], 0.1, 0.04).item() == pytest.approx(total, abs=1e-9)


def test_rows_left_out_are_no_negatives():
    z = torch.randn(3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    without = torch.tensor([[0, 1], [1, 2], [2, 3], [3, 4], [4, 0]])
    q, p, k = F.normalize(z, dim=2)
    total = 0.0
    for i in range(5):
        negatives = [q[i] @ k[j] / 0.2 for j in range(5) if j not in without[i]]
        logits = torch.stack([q[i] @ p[i] / 0.2, *negatives])
        total -= float(logits.log_softmax(0)[0]) / 5
    assert info_nce_without(z[0], z[1], z[2], without, 0.2).item() == pytest.approx(total, abs=1e-9)
