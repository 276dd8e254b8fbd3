import copy

import pytest
import timm
import torch
import torch.nn.functional as F
from tiny import OPTIONS, tiny_batch, tiny_method
from torch import nn

from clzoo.errors import ClzooError
from clzoo.losses import info_nce_keys, info_nce_queue, potential_samples
from clzoo.losses.potential_samples import mutual_neighbors
from clzoo.methods import Batch
from clzoo.methods.batchnorm import SplitBatchNorm2d, split_batchnorm
from clzoo.methods.momentum import Queue, cosine_to_one, momentum_copy, momentum_update


def test_the_average_moves_by_one_minus_the_momentum():
    module = nn.Linear(2, 2)
    average = momentum_copy(module)
    before = average.weight.clone()
    with torch.no_grad():
        module.weight.add_(1.0)
    momentum_update(average, module, 0.9)
    assert torch.allclose(average.weight, before + 0.1)
    assert not average.weight.requires_grad


def test_the_momentum_rises_to_one_along_a_cosine():
    assert cosine_to_one(0.99, 0.0) == pytest.approx(0.99)
    assert cosine_to_one(0.99, 0.5) == pytest.approx(0.995)
    assert cosine_to_one(0.99, 1.0) == pytest.approx(1.0)


def test_the_queue_replaces_its_oldest_entries_first():
    torch.manual_seed(0)
    queue = Queue(6, 2)
    start = queue.entries.clone()
    assert torch.allclose(start.norm(dim=1), torch.ones(6))
    batches = [torch.randn(2, 2) for _ in range(4)]
    for keys in batches[:2]:
        queue.push(keys)
    unit = [F.normalize(keys, dim=1) for keys in batches]
    assert torch.allclose(queue.entries, torch.cat([unit[0], unit[1], start[4:]]))
    for keys in batches[2:]:
        queue.push(keys)
    assert torch.allclose(queue.entries, torch.cat([unit[3], unit[1], unit[2]]))


def test_a_queue_that_the_batch_does_not_divide_is_refused():
    with pytest.raises(ClzooError, match=r"--set method\.queue=15"):
        Queue(16, 2).push(torch.randn(5, 2))


def test_moco_v2_contrasts_with_the_queue_as_it_was_and_enqueues_afterwards():
    method = tiny_method("mocov2")
    before, batch = copy.deepcopy(method), tiny_batch("mocov2")
    loss = method(batch)
    before.update_momentum(batch, 0.9)
    q, k = before.query(batch.views[0]), before.key(batch.views[1])
    assert loss.item() == pytest.approx(info_nce_queue(q, k, before.queue.entries, 0.2).item())
    assert torch.allclose(method.queue.entries[:8], F.normalize(k, dim=1))
    assert torch.equal(method.queue.entries[8:], before.queue.entries[8:])


@pytest.mark.parametrize("step", range(5))
def test_a_key_shares_batch_statistics_with_other_images_than_its_query(step):
    method, groups = tiny_method("mocov2"), 4
    batch = Batch(list(torch.randn(2, 32, 3, 4, 4, generator=torch.Generator().manual_seed(step))), step=step)
    seen = []
    for encoder in (method.backbone, method.momentum_backbone):
        encoder.register_forward_hook(lambda _, images, __: seen.append(images[0]))
    method.query(batch.views[0])
    shuffle = method.key_order(batch)
    keys = method.shuffled_key(batch.views[1], shuffle)
    company = []  # of each image: the images in its group, row r being in group r mod `groups`
    for view, rows in zip(batch.views, seen, strict=True):
        order = [next(i for i in range(32) if torch.equal(view[i], row)) for row in rows]
        assert sorted(order) == list(range(32))
        company.append({image: {*order[row % groups :: groups]} for row, image in enumerate(order)})
    assert all(company[0][image] != company[1][image] for image in range(32))
    shared = sum(len(company[0][image] & company[1][image]) - 1 for image in range(32)) / 32
    assert shared < 3.5  # of 7 others; by chance 7 * 7 / 31 = 1.6
    in_order = method.eval().key(batch.views[1])  # eval mode has no batch statistics
    assert torch.allclose(method.shuffled_key(batch.views[1], shuffle), in_order, atol=1e-6)  # put back in order
    assert keys.shape == in_order.shape


def test_split_batchnorm_and_shuffled_keys_together_give_each_key_its_own_groups_statistics():
    torch.manual_seed(0)
    method = tiny_method("mocov2")
    method.momentum_backbone = split_batchnorm(nn.Sequential(nn.BatchNorm2d(3)), groups=4)
    method.momentum_projector = nn.Flatten()
    batch = tiny_batch("mocov2", size=32)
    order = torch.randperm(32, generator=batch.generator(65_536))
    expected = torch.empty(32, 48)
    for group in range(4):
        images = order[group::4]
        expected[images] = nn.BatchNorm2d(3)(batch.views[1][images]).flatten(1).detach()
    assert torch.equal(method.key_order(batch), order)
    assert torch.allclose(method.shuffled_key(batch.views[1], order), expected, atol=1e-5)


def test_the_momentum_encoder_is_updated_before_the_keys_are_made():
    method = tiny_method("mocov2")
    with torch.no_grad():
        method.backbone[1].weight.zero_()
    before = method.momentum_backbone[1].weight.clone()
    method(tiny_batch("mocov2"))
    assert torch.allclose(method.momentum_backbone[1].weight, 0.9 * before)


@pytest.mark.parametrize("kind", [kind for kind in OPTIONS if "momentum" in OPTIONS[kind]])
def test_the_momentum_encoder_moves_once_for_all_parts_of_an_accumulated_step(kind):
    method, averages = tiny_method(kind), []
    with torch.no_grad():
        method.backbone[1].weight.zero_()
    before = method.momentum_backbone[1].weight.clone()
    for part in range(3):
        method(tiny_batch(kind, part=part, progress=0.5))
        averages.append(method.momentum_backbone[1].weight.clone())
    assert not torch.equal(averages[0], before)
    assert all(torch.equal(average, averages[0]) for average in averages[1:])


def test_moco_v3_is_symmetric_and_scaled_by_twice_the_temperature():
    method = tiny_method("mocov3")
    batch = tiny_batch("mocov3", progress=0.0)
    twin = copy.deepcopy(method)
    loss = method(batch)
    twin.update_momentum(batch, 0.9)
    q1, q2 = (twin.query(view) for view in batch.views)
    k1, k2 = (twin.key(view) for view in batch.views)
    rows = torch.arange(8)
    expected = info_nce_keys(q1, k2, rows, 0.5) + info_nce_keys(q2, k1, rows, 0.5)  # 2T = 1
    assert loss.item() == pytest.approx(expected.item())


def test_two_views_of_cacrs_momentum_form_are_half_of_moco_v3():
    cacr = tiny_method("cacr_momentum", views=2, temperature=0.5)
    moco = tiny_method("mocov3")
    moco.load_state_dict(cacr.state_dict())
    batch = tiny_batch("mocov3")
    assert cacr(batch).item() == pytest.approx(moco(batch).item() / 2, rel=1e-6)


def test_the_weak_view_mines_with_a_mass_of_mutual_neighbors():
    method, batch = tiny_method("potential_samples_weak"), tiny_batch("potential_samples_weak")
    before = copy.deepcopy(method)
    before.update_momentum(batch, 0.9)
    order = before.key_order(batch)
    with torch.no_grad():
        before.queue.entries[3] = F.normalize(before.shuffled_key(batch.views[2], order), dim=1)[0]  # one sure neighbor
    method.queue.load_state_dict(before.queue.state_dict())
    z, k = before.query(batch.views[0]), before.shuffled_key(batch.views[1], order)
    w, queue = before.shuffled_key(batch.views[2], order), before.queue.entries
    mass = mutual_neighbors(w, queue).item()
    assert 0 < mass < 1
    expected = potential_samples(z, k, queue, k=2, tau_w=0.05, mined_mass=mass, weak=w)
    assert method(batch).item() == pytest.approx(expected.item(), rel=1e-5)


def test_plain_potential_samples_are_moco_v2_exactly():
    plain = tiny_method("potential_samples", positives="aug_only", negatives="all")
    moco = tiny_method("mocov2")
    moco.load_state_dict(plain.state_dict())
    batch = tiny_batch("mocov2")
    assert plain(batch).item() == pytest.approx(moco(batch).item(), rel=1e-6)


def test_mining_starts_after_five_percent_of_the_run_and_is_full_at_twenty():
    from clzoo.methods.potential_samples import mined_mass

    assert [mined_mass(p) for p in (0.0, 0.05, 0.2, 0.9)] == [0, 0, 1, 1]
    assert mined_mass(0.125) == pytest.approx(0.5)


def test_split_batchnorm_is_a_batchnorm_for_each_group():
    torch.manual_seed(0)
    plain = nn.Sequential(nn.BatchNorm2d(3))
    split = split_batchnorm(copy.deepcopy(plain), groups=2)
    x = torch.randn(6, 3, 5, 5)
    expected = torch.empty_like(x)
    for group in range(2):  # image i belongs to group i mod 2
        expected[group::2] = nn.BatchNorm2d(3)(x[group::2])
    assert torch.allclose(split(x), expected, atol=1e-6)
    assert torch.allclose(split[0].running_mean, 0.1 * x.mean(dim=(0, 2, 3)), atol=1e-6)
    assert split.state_dict().keys() == plain.state_dict().keys()


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
def test_compiled_split_batchnorm_is_written_out_and_computes_the_same(memory_format):
    torch.manual_seed(0)
    x, weight = torch.randn(8, 3, 4, 5).to(memory_format=memory_format), torch.randn(8, 3, 4, 5)
    plain = SplitBatchNorm2d(nn.BatchNorm2d(3), 4)
    nn.init.uniform_(plain.weight)
    nn.init.uniform_(plain.bias)
    written_out = copy.deepcopy(plain)
    found = []
    for norm, call in ((plain, plain), (written_out, torch.compile(written_out, backend="eager", fullgraph=True))):
        pixels = x.clone().requires_grad_()
        (call(pixels) * weight).sum().backward()
        found.append((call(x), pixels.grad, norm.weight.grad, norm.bias.grad, *norm.buffers()))
    torch.compiler.reset()
    for ours, expected in zip(*found, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)
    assert not torch.equal(found[0][0], found[1][0]), "both went through the same code"


def test_split_batchnorm_in_eval_mode_is_a_plain_one():
    torch.manual_seed(0)
    split = SplitBatchNorm2d(nn.BatchNorm2d(3), 2).eval()
    x = torch.randn(5, 3, 4, 4)  # no multiple of the groups: it does not matter here
    assert torch.allclose(split(x), nn.BatchNorm2d(3).eval()(x))


@pytest.mark.parametrize("name", ["regnetx_002", "mobilenetv3_small_050", "efficientnet_b0", "densenet121"])
def test_split_batchnorm_keeps_the_activations_that_timms_norms_hold(name):
    torch.manual_seed(0)
    plain = timm.create_model(name, num_classes=0)
    split = split_batchnorm(copy.deepcopy(plain), groups=2)
    assert split.state_dict().keys() == plain.state_dict().keys()
    x = torch.randn(4, 3, 32, 32)
    for network in (plain, split):
        network.eval()
    assert torch.equal(split(x), plain(x))

    norm = timm.layers.BatchNormAct2d(3, act_layer=nn.ReLU)
    in_two = split_batchnorm(nn.Sequential(copy.deepcopy(norm)), groups=2)
    assert in_two(x).min() == 0
    torch.testing.assert_close(in_two(x)[::2], norm(x[::2]))


def test_a_norm_without_a_form_in_groups_is_named():
    class Other(nn.BatchNorm2d):
        pass

    for norm in (Other(3), nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3, momentum=None)):
        with pytest.raises(ClzooError, match=r"no form in groups of 0, a (Other|BatchNorm2d)\."):
            split_batchnorm(nn.Sequential(norm), groups=2)


def test_groups_that_do_not_divide_the_batch_are_refused():
    with pytest.raises(ClzooError, match="batchnorm_groups=4"):
        SplitBatchNorm2d(nn.BatchNorm2d(3), 4)(torch.randn(6, 3, 4, 4))
