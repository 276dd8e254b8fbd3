import dataclasses
import threading

import numpy as np
import pytest
import torch
from picture_folders import make_folder, noise
from PIL import Image

from clzoo.augment.views import ViewPolicy, crop_on_host, finish_view, make_view
from clzoo.config import Preprocessing
from clzoo.data.stream import stream_crops, stream_views
from clzoo.data.training import open_training_set
from clzoo.errors import ClzooError
from clzoo.transform import normalize

CPU = torch.device("cpu")
POLICIES = (ViewPolicy(size=16), ViewPolicy(size=16, crop_scale=(0.5, 1.0)), ViewPolicy(size=8))


@pytest.fixture
def images(tmp_path):
    for number, pixels in enumerate(noise(20, 40, seed=0)):
        path = tmp_path / "pictures" / f"class{number % 2}" / f"{number:02}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[: 30 + number % 10]).save(path)  # of several sizes
    return open_training_set("mine", tmp_path / "pictures", 16, budget=0)


def steps(count: int, batch: int, first: int = 0):
    """(epoch, samples) of steps in some order, as a loop gives them."""
    for step in range(first, count):
        yield step // 3, torch.from_numpy(np.random.RandomState(step).choice(20, batch, replace=False))


def collect(images, batches, **options) -> list[list[torch.Tensor]]:
    return list(stream_crops(images, batches, POLICIES, seed=5, device=CPU, **options))


def same(one, two) -> bool:
    return len(one) == len(two) and all(
        torch.equal(a, b) for x, y in zip(one, two, strict=True) for a, b in zip(x, y, strict=True)
    )


def test_each_view_is_the_crop_of_its_policy_seed_epoch_sample_and_number(images):
    streamed = collect(images, steps(4, 6))
    for (epoch, samples), views in zip(steps(4, 6), streamed, strict=True):
        assert [tuple(view.shape) for view in views] == [(6, 16, 16, 3), (6, 16, 16, 3), (6, 8, 8, 3)]
        for number, (view, policy) in enumerate(zip(views, POLICIES, strict=True)):
            assert view.dtype == torch.uint8
            for slot, sample in enumerate(samples.tolist()):
                crop = crop_on_host(images.image(sample), policy, seed=5, epoch=epoch, sample=sample, view=number)
                assert np.array_equal(view[slot].numpy(), crop)


@pytest.mark.parametrize(("workers", "ahead"), [(1, 1), (1, 0), (3, 2), (8, 5)])
def test_workers_and_prefetching_change_nothing(images, workers, ahead):
    assert same(collect(images, steps(7, 6)), collect(images, steps(7, 6), workers=workers, ahead=ahead))


def test_a_resumed_stream_goes_on_with_the_same_batches(images):
    assert same(collect(images, steps(7, 6))[4:], collect(images, steps(7, 6, first=4)))


def test_batches_of_one_and_of_several_sizes_pass(images):
    batches = [(0, torch.tensor([3])), (0, torch.tensor([1, 2, 4])), (0, torch.tensor([7, 5]))]
    assert [len(views[0]) for views in collect(images, batches)] == [1, 3, 2]
    assert collect(images, []) == []


def test_resident_and_streamed_sets_of_one_pack_give_the_same_crops(images, tmp_path):
    from clzoo.data.packing import pack

    pack(tmp_path / "pictures", 32, tmp_path / "packed")
    both = [open_training_set("mine", tmp_path / "packed", 32, budget=budget) for budget in (0, 1 << 30)]
    assert [opened.pixels is None for opened in both] == [True, False]
    assert same(*(collect(opened, steps(3, 6)) for opened in both))


def test_no_more_batches_are_read_ahead_than_asked_for(images):
    taken = 0

    def counted():
        nonlocal taken
        for batch in steps(10, 4):
            taken += 1
            yield batch

    stream = stream_crops(images, counted(), POLICIES, seed=0, device=CPU, ahead=2)
    for handed_out in range(1, 4):
        next(stream)
        assert taken <= handed_out + 1 + 2 + 1  # handed out, the one that follows, two ahead, one decoded already
    stream.close()


def test_closing_the_stream_ends_its_threads(images):
    before = set(threading.enumerate())
    stream = stream_crops(images, steps(10, 4), POLICIES, seed=0, device=CPU, workers=3)
    next(stream)
    assert set(threading.enumerate()) - before
    stream.close()
    assert not set(threading.enumerate()) - before


def test_an_unreadable_image_is_replaced_the_same_way_by_any_number_of_workers(images, tmp_path):
    victim = images.images.items[4]
    (tmp_path / "pictures" / victim.path).write_bytes(b"")
    again = open_training_set("mine", tmp_path / "pictures", 16, budget=0)
    one, many = collect(images, steps(7, 10), workers=1), collect(again, steps(7, 10), workers=8)
    assert same(one, many)
    assert images.skipped == again.skipped == (f"{victim.path}: empty file (zero bytes)",)
    assert images.labels[4] == images.labels[5]
    epoch, samples = 0, torch.tensor([4])
    (views,) = collect(images, [(epoch, samples)])
    expected = crop_on_host(images.image(5), POLICIES[0], seed=5, epoch=0, sample=4, view=0)  # its own random numbers
    assert np.array_equal(views[0][0].numpy(), expected)


def test_a_class_without_readable_images_stops_the_stream_with_its_name(tmp_path):
    folder = make_folder(tmp_path / "pictures", {"ant": 2, "bee": 2})
    for path in (folder / "bee").iterdir():
        path.write_bytes(b"")
    images = open_training_set("mine", folder, 16, budget=0)
    with pytest.raises(ClzooError, match="no image of the class bee can be decoded"):
        collect(images, [(0, torch.tensor([0, 1, 2, 3]))])


@pytest.mark.gpu
def test_on_a_gpu_the_crops_are_those_of_the_cpu(images):
    device = torch.device("cuda")
    expected = collect(images, steps(40, 10))
    found = []
    for views in stream_crops(images, steps(40, 10), POLICIES, seed=5, device=device):
        torch.cuda._sleep(2_000_000)  # the device lags behind, as in training
        found.append([view.clone() for view in views])
    assert all(view.is_cuda for views in found for view in views)
    assert same(expected, [[view.cpu() for view in views] for views in found])


PLAIN = {"jitter": 0.0, "grayscale": 0.0}
DATA = Preprocessing(mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def seen(images, policies, finish, **options):
    """(samples, views) of four steps."""
    return list(stream_views(images, steps(4, 6), policies, finish, seed=5, device=CPU, **options))


def test_views_of_decoded_crops_are_finished_by_their_numbers_and_normalized(images):
    found = seen(images, POLICIES, lambda pixels: normalize(pixels, DATA))
    crops = collect(images, steps(4, 6))
    for (epoch, expected), (samples, views), batch in zip(steps(4, 6), found, crops, strict=True):
        assert torch.equal(samples, expected)
        for number, (view, crop, policy) in enumerate(zip(views, batch, POLICIES, strict=True)):
            made = finish_view(crop, policy, seed=5, epoch=epoch, samples=samples, view=number)
            assert torch.equal(view, normalize(255 * made.permute(0, 2, 3, 1), DATA))


def test_views_of_held_images_are_made_for_the_whole_batch(images):
    held = open_training_set("mine", images.origin, 16)
    assert held.pixels is not None
    for (epoch, samples), (_, views) in zip(
        steps(4, 6), seen(held, POLICIES, lambda pixels: normalize(pixels, DATA)), strict=True
    ):
        stored = torch.from_numpy(held.pixels)[samples]
        for number, (view, policy) in enumerate(zip(views, POLICIES, strict=True)):
            made = make_view(stored, policy, seed=5, epoch=epoch, samples=samples, view=number)
            assert torch.equal(view, normalize(255 * made.permute(0, 2, 3, 1), DATA))


def test_a_crop_that_nothing_follows_is_handed_on_as_decoded_and_is_the_same_view(images):
    plain = [ViewPolicy(size=16, **PLAIN)]
    found = seen(images, plain, lambda pixels: pixels)
    for (epoch, _), (samples, (view,)) in zip(steps(4, 6), found, strict=True):
        assert view.dtype == torch.uint8
        made = finish_view(view, plain[0], seed=5, epoch=epoch, samples=samples, view=0)
        assert torch.equal(normalize(view, DATA), normalize(255 * made.permute(0, 2, 3, 1), DATA))


@pytest.mark.parametrize(
    "later", [{"jitter": 0.1}, {"grayscale": 0.1}, {"downscale": 0.1}, {"blur": 0.1}, {"solarize": 0.1}, {"erase": 0.1},
              {"rand_augment": "rand-m9-mstd0.5-inc1"}]
)  # fmt: skip
def test_only_crops_means_that_no_operation_follows(later):
    assert ViewPolicy(**PLAIN).only_crops
    assert not ViewPolicy(**{**PLAIN, **later}).only_crops
    switches = {field.name for field in dataclasses.fields(ViewPolicy)} - {
        *("size", "crop_scale", "crop_ratio", "flip"),  # of the crop itself
        *(
            "brightness",
            "contrast",
            "saturation",
            "hue",
            "blur_sigma",
            "downscale_to",
        ),  # strengths, of what has a switch
    }
    assert switches == {"jitter", "grayscale", "downscale", "blur", "solarize", "erase", "rand_augment"}


def test_views_take_the_road_of_another_device_where_it_is_named(images):
    held = open_training_set("mine", images.origin, 16)
    large = [ViewPolicy(size=112, **PLAIN)]  # a CPU crops such ones image by image, a GPU in batches
    (_, (on_host,)), *_ = seen(held, large, lambda pixels: pixels)
    (_, (in_batches,)), *_ = seen(held, large, lambda pixels: pixels, road_of=torch.device("cuda"))
    assert (on_host.dtype, in_batches.dtype) == (torch.uint8, torch.float32)
    assert (on_host.float() - in_batches).abs().max() < 2  # levels: Pillow rounds between its two passes


def test_one_view_is_finished_before_the_next_is_made(images, monkeypatch):
    from clzoo.data import stream

    events = []
    monkeypatch.setattr(stream, "finish_view", lambda *a, **k: events.append("make") or finish_view(*a, **k))
    seen(images, POLICIES, lambda pixels: events.append("finish"))
    assert events == ["make", "finish"] * 3 * 4


def test_closing_the_views_ends_the_workers(images):
    views = stream_views(images, steps(10, 4), POLICIES, lambda pixels: pixels, seed=0, device=CPU)
    next(views)
    views.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("clzoo-crop")]
