import dataclasses

import torch

from clzoo.augment import ViewPolicy, make_view
from clzoo.augment.random import uniform, uniforms

IMAGES = torch.randint(0, 256, (16, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
SAMPLES = torch.arange(100, 116)


def view(rows=slice(None), *, seed=0, epoch=0, number=0, policy=ViewPolicy()):  # noqa: B008
    return make_view(IMAGES[rows], policy, seed=seed, epoch=epoch, samples=SAMPLES[rows], view=number)


def test_a_view_is_the_same_in_whatever_batch_its_sample_lies():
    whole = view()
    alone = torch.cat([view(slice(i, i + 1)) for i in range(16)])
    backwards = view(torch.arange(15, -1, -1)).flip(0)
    assert torch.allclose(whole, alone, atol=1e-6)
    assert torch.allclose(whole, backwards, atol=1e-6)


def test_seed_epoch_and_view_number_each_change_the_view():
    first = view()
    for other in (view(seed=1), view(epoch=1), view(number=1)):
        assert (first - other).abs().mean() > 0.02


def test_views_have_the_asked_size_and_lie_in_zero_to_one():
    views = view(policy=ViewPolicy(size=24))
    assert views.shape == (16, 3, 24, 24)
    assert views.min() >= 0
    assert views.max() <= 1


def test_a_policy_of_no_strength_gives_the_image_itself():
    nothing = ViewPolicy(crop_scale=(1.0, 1.0), flip=0, brightness=0, contrast=0, saturation=0, hue=0, grayscale=0)
    same = view(policy=nothing)
    pixels = IMAGES.permute(0, 3, 1, 2) / 255
    # A full-area crop still draws its aspect; where it does not fit, the whole image is taken.
    unchanged = ((same - pixels).abs().amax(dim=(1, 2, 3)) < 1e-5).float().mean()
    assert unchanged > 0.9


def test_shares_of_flips_and_gray_images_follow_their_probabilities():
    samples = torch.arange(3000)
    left_half = torch.zeros(1, 8, 8, 3, dtype=torch.uint8).expand(3000, 8, 8, 3).clone()
    left_half[:, :, :4, 0] = 255  # red on the left
    plain = ViewPolicy(size=8, crop_scale=(1.0, 1.0), flip=0.5, jitter=0.0, grayscale=0.2)
    views = make_view(left_half, plain, seed=0, epoch=0, samples=samples, view=0)
    flipped = views[:, 0, :, 4:].mean(dim=(1, 2)) > views[:, 0, :, :4].mean(dim=(1, 2))
    gray = (views[:, 0] - views[:, 1]).abs().amax(dim=(1, 2)) < 1e-6
    assert abs(flipped.float().mean() - 0.5) < 0.04
    assert abs(gray.float().mean() - 0.2) < 0.03
    # Without jitter, twice as strong colour operations make no difference.
    stronger = dataclasses.replace(plain, brightness=0.8, hue=0.5)
    assert torch.equal(views, make_view(left_half, stronger, seed=0, epoch=0, samples=samples, view=0))


def test_uniform_numbers_are_uniform_and_uncorrelated():
    u = uniforms(3, 5, torch.arange(50_000), view=1, count=6)
    assert u.min() >= 0
    assert u.max() < 1
    assert torch.allclose(u.mean(0), torch.full((6,), 0.5), atol=0.01)
    assert torch.allclose(u.var(0), torch.full((6,), 1 / 12), atol=0.002)
    assert (torch.corrcoef(u.T) - torch.eye(6)).abs().max() < 0.02
    neighbors = torch.corrcoef(torch.stack([u[:-1, 0], u[1:, 0]]))[0, 1]
    assert neighbors.abs() < 0.02


def test_no_two_of_a_hundred_seeds_draw_alike_in_any_of_their_first_epochs():
    sample = torch.tensor([7])
    drawn = {tuple(uniforms(s, e, sample, view=0, count=4)[0].tolist()) for s in range(100) for e in range(20)}
    assert len(drawn) == 100 * 20


def test_one_number_is_that_of_the_batch():
    samples = [0, 3, 2**40]
    u = uniforms(1, 2, torch.tensor(samples), view=4, count=100)
    alone = [[uniform(1, 2, sample, 4, position) for position in range(100)] for sample in samples]
    assert u.tolist() == alone
    assert torch.equal(uniforms(1, 2, torch.tensor(samples), view=4, count=7, start=60), u[:, 60:67])


def test_random_numbers_stay_what_they_are():
    # A run that is resumed with a later version has to see the views that it would have seen.
    recorded = {0: [440321, 8669563, 1640512], 1: [14271151, 6959918, 2606521]}
    for seed, numbers in recorded.items():
        assert [int(uniform(seed, 3, sample, 4, 0) * 2**24) for sample in (0, 3, 2**40)] == numbers
