"""`embed` of an Encoder and of a LiteEncoder: any kind of image, lists of any length in bounded memory."""

import gc
import io
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from small_models import small_encoder

import clzoo
import clzoo.lite
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError

PICTURES = sorted((Path(__file__).parents[1] / "examples" / "pictures").rglob("*.jpg"))[:7]


@pytest.fixture(scope="module")
def torch_encoder() -> Encoder:
    return small_encoder()


@pytest.fixture(scope="module")
def lite(small_graph):
    return clzoo.lite.load(small_graph)


@pytest.fixture(params=["torch_encoder", "lite"])
def encoder(request):
    return request.getfixturevalue(request.param)


class Live:
    """Counts decoded images that are alive."""

    def __init__(self) -> None:
        self.now = self.most = self.ever = 0
        self._lock = threading.RLock()

    def count(self, array: np.ndarray) -> np.ndarray:
        array = array.copy()  # a copy owns its memory: its life is that of the pixels
        with self._lock:
            self.now += 1
            self.ever += 1
            self.most = max(self.most, self.now)
        weakref.finalize(array, self._gone)
        return array

    def _gone(self) -> None:
        with self._lock:
            self.now -= 1


@pytest.fixture
def live(monkeypatch) -> Live:
    """Of all images that `resize_and_crop` has made."""
    import clzoo.encoder
    import clzoo.lite.encoder

    counter, ours = Live(), clzoo.encoder.resize_and_crop
    for module in (clzoo.encoder, clzoo.lite.encoder):
        monkeypatch.setattr(module, "resize_and_crop", lambda image, p: counter.count(ours(image, p)))
    return counter


# Memory ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["list", "generator"])
def test_of_a_long_list_a_few_batches_are_decoded_at_a_time(encoder, live, kind):
    images = [np.full((40, 40, 3), number % 256, np.uint8) for number in range(600)]
    vectors = encoder.embed(images if kind == "list" else iter(images), batch_size=16)
    assert vectors.shape == (600, encoder.dim)
    assert live.ever == 600
    assert live.most <= 5 * 16  # two batches ahead, one that is put together, and what the threads have just finished
    for number in (0, 15, 16, 300, 599):
        np.testing.assert_allclose(vectors[number], encoder.embed(images[number]), atol=1e-5)


def test_a_generator_is_read_as_it_is_needed(encoder, live):
    taken = 0
    finished = []

    def images() -> Iterator[np.ndarray]:
        nonlocal taken
        for number in range(400):
            taken = number + 1
            finished.append(live.ever)
            yield np.full((40, 40, 3), number % 256, np.uint8)

    encoder.embed(images(), batch_size=16)
    assert taken == 400
    assert max(number - done for number, done in enumerate(finished)) <= 4 * 16


def test_many_queries_are_decoded_a_few_batches_at_a_time(tmp_path, torch_encoder, live):
    for number in range(12):
        Image.new("RGB", (40, 40), (20 * number, 100, 50)).save(tmp_path / f"{number:02d}.png")
    folder = torch_encoder.save_pretrained(tmp_path / "model")
    clzoo.embed_folder(tmp_path, clzoo.load(folder, device="cpu"), tmp_path / "store", progress=False)
    index = clzoo.build_index(tmp_path / "store")
    gc.collect()
    live.most = live.ever = live.now = 0
    queries = [tmp_path / f"{number % 12:02d}.png" for number in range(700)]
    results = clzoo.search(index, queries, k=1, encoder=clzoo.load(folder, device="cpu"))
    assert [hits[0].path for hits in results] == [path.name for path in queries]
    assert live.ever == 700
    assert live.most <= 5 * 64


def test_an_error_in_a_long_list_ends_it_at_once(encoder, live):
    images = [np.zeros((40, 40, 3), np.uint8)] * 600
    images[100] = b"nothing"
    with pytest.raises(ClzooError, match="image 100 of the call cannot be decoded"):
        encoder.embed(images, batch_size=16)
    assert live.ever < 250


def test_what_a_generator_raises_reaches_the_caller(encoder):
    def images() -> Iterator[Path]:
        yield PICTURES[0]
        raise RuntimeError("the camera is off")

    with pytest.raises(RuntimeError, match="the camera is off"):
        encoder.embed(images())


# Kinds of images ------------------------------------------------------------------------------------------------------


def kinds(path: Path) -> dict[str, object]:
    """One picture in every form that both encoders take."""
    array = np.asarray(Image.open(path).convert("RGB"))
    return {
        "path": path,
        "text": str(path),
        "bytes": path.read_bytes(),
        "bytearray": bytearray(path.read_bytes()),
        "memory": io.BytesIO(path.read_bytes()),
        "PIL": Image.open(path),
        "array": array,
        "float array": array / 255,
        "half array": (array / 255).astype(np.float16),
        "turned array": np.ascontiguousarray(array.transpose(1, 0, 2)).transpose(1, 0, 2),
    }


def test_every_kind_of_image_gives_the_same_vector_alone_and_in_lists(encoder):
    path = PICTURES[3]
    one = encoder.embed(path)
    with path.open("rb") as file:
        for name, image in {**kinds(path), "file": file}.items():
            np.testing.assert_array_equal(encoder.embed(image), one, err_msg=name)
            np.testing.assert_array_equal(encoder.embed([image]), one[None], err_msg=name)
            np.testing.assert_array_equal(encoder.embed(each for each in [image]), one[None], err_msg=name)
        assert file.tell() == 0  # a file object is left where it stood
    many = encoder.embed(list(kinds(path).values()))
    np.testing.assert_allclose(many, np.stack([one] * len(many)), atol=1e-5)


def test_tensors_of_bytes_and_of_floats_are_images_for_torch(torch_encoder):
    array = np.asarray(Image.open(PICTURES[3]).convert("RGB"))
    one = torch_encoder.embed(array)
    levels = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for tensor in (levels, levels / 255, (levels / 255).double(), (levels / 255).half()):
        np.testing.assert_array_equal(torch_encoder.embed(tensor), one)
        assert torch_encoder.embed(torch.stack([tensor, tensor])).shape == (2, torch_encoder.dim)


def test_batches_of_arrays_count_as_lists(encoder):
    array = np.asarray(Image.open(PICTURES[3]).convert("RGB"))
    for batch in (np.stack([array, array]), np.stack([array, array]) / 255):
        np.testing.assert_allclose(encoder.embed(batch), np.stack([encoder.embed(array)] * 2), atol=1e-5)


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (None, "cannot embed a NoneType"),
        (7, "cannot embed a int"),
        ({"a.jpg": 1}, "cannot embed a dict"),
        ({"a.jpg"}, "cannot embed a set"),
        ([], "no images"),
        (iter(()), "no images"),
        ([None], r"image 0 of the call: cannot embed a NoneType"),
        ([PICTURES[0], 7], r"image 1 of the call: cannot embed a int"),
        ([[PICTURES[0]]], r"image 0 of the call: cannot embed a list"),
        (io.StringIO("text"), "mode 'rb'"),
        (np.zeros((8, 8), np.uint8), "an image has 3 dimensions"),
        (np.zeros((3, 8, 8), np.uint8), r"found uint8 \(3, 8, 8\). Put the channels last: array.transpose"),
        (np.zeros((8, 8, 4), np.uint8), r"found uint8 \(8, 8, 4\)"),
        (np.zeros((8, 0, 3), np.uint8), r"found uint8 \(8, 0, 3\)"),
        (np.zeros((8, 8, 3), np.int64), r"found int64 \(8, 8, 3\)"),
        (np.full((8, 8, 3), 255.0), r"must lie in \[0, 1\], found \[255, 255\]: divide by 255"),
        (np.full((8, 8, 3), np.nan), r"must lie in \[0, 1\]"),
        (np.full((8, 8, 3), -0.1), r"must lie in \[0, 1\]"),
        (PICTURES[0].parent / "none.jpg", r"none\.jpg cannot be decoded: No such file"),
    ],
)
def test_what_is_no_image_is_refused_by_name(encoder, images, message):
    with pytest.raises(ClzooError, match=message):
        encoder.embed(images)


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (
            torch.zeros(8, 8, 3, dtype=torch.uint8),
            r"found torch.uint8 \(8, 8, 3\). Put the channels first",
        ),
        (torch.zeros(8, 8), "an image has 3 dimensions"),
        (torch.zeros(3, 8, 8, dtype=torch.int64), r"found torch.int64"),
        (torch.full((3, 8, 8), 2.0), r"must lie in \[0, 1\], found \[2, 2\]"),
    ],
)
def test_other_tensors_are_refused_by_name(torch_encoder, tensor, message):
    with pytest.raises(ClzooError, match=message):
        torch_encoder.embed(tensor)


def test_a_closed_file_is_named_with_its_reason(encoder):
    file = io.BytesIO(PICTURES[0].read_bytes())
    file.close()
    with pytest.raises(ClzooError, match="image 1 of the call cannot be decoded: the file object cannot be read"):
        encoder.embed([PICTURES[0], file])


# Images that cannot be read -------------------------------------------------------------------------------------------


def test_skipping_returns_the_others_and_says_which(encoder, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(PICTURES[0].read_bytes()[:500])
    images = [PICTURES[0], tmp_path / "broken.jpg", PICTURES[1], b"", PICTURES[2]]
    vectors, skipped = encoder.embed(iter(images), on_error="skip", batch_size=2)
    np.testing.assert_allclose(vectors, encoder.embed(PICTURES[:3]), atol=1e-5)
    assert [each.position for each in skipped] == [1, 3]
    assert [each.name for each in skipped] == [str(tmp_path / "broken.jpg"), "image 3 of the call"]
    assert "empty" in skipped[1].reason


def test_with_nothing_to_skip_and_with_nothing_left(encoder):
    vectors, skipped = encoder.embed(PICTURES[:2], on_error="skip")
    assert (vectors.shape, skipped) == ((2, encoder.dim), [])
    vectors, skipped = encoder.embed([b"", b"x"], on_error="skip")
    assert (vectors.shape, [each.position for each in skipped]) == ((0, encoder.dim), [0, 1])


def test_what_is_no_image_at_all_is_not_skipped(encoder):
    with pytest.raises(ClzooError, match="image 1 of the call: cannot embed a NoneType"):
        encoder.embed([PICTURES[0], None], on_error="skip")


def test_skipping_is_for_lists_and_spelt_right(encoder):
    with pytest.raises(ClzooError, match="is for many images"):
        encoder.embed(PICTURES[0], on_error="skip")
    with pytest.raises(ClzooError, match="on_error must be 'raise' or 'skip', found 'ignore'"):
        encoder.embed(PICTURES, on_error="ignore")
    with pytest.raises(ClzooError, match="batch_size must be at least 1"):
        encoder.embed(PICTURES, batch_size=0)


def test_progress_changes_nothing_and_is_silent_without_a_terminal(encoder, capfd):
    np.testing.assert_array_equal(encoder.embed(PICTURES, progress=True), encoder.embed(PICTURES))
    assert encoder.embed(iter(PICTURES), progress=True).shape == (7, encoder.dim)
    assert capfd.readouterr() == ("", "")


# The mode of the module -----------------------------------------------------------------------------------------------


def test_embedding_is_in_eval_mode_and_leaves_each_part_as_it_was():
    encoder = small_encoder()
    expected = encoder.embed(PICTURES)
    encoder.module.train()
    frozen = next(module for module in encoder.module.modules() if isinstance(module, torch.nn.BatchNorm2d))
    frozen.eval()
    before = {name: module.training for name, module in encoder.module.named_modules()}
    state = {name: tensor.clone() for name, tensor in encoder.module.state_dict().items()}
    np.testing.assert_array_equal(encoder.embed(PICTURES), expected)
    encoder.encode(torch.zeros(2, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(ClzooError):
        encoder.embed([PICTURES[0], b""])
    assert {name: module.training for name, module in encoder.module.named_modules()} == before
    assert set(before.values()) == {True, False}
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.module.state_dict().items())


def test_threads_that_embed_together_leave_the_mode_as_it_was():
    encoder = small_encoder()
    expected = encoder.embed(PICTURES)
    encoder.module.train()
    results: list[np.ndarray] = []
    threads = [threading.Thread(target=lambda: results.append(encoder.embed(PICTURES, batch_size=2))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 4
    for vectors in results:
        np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert encoder.module.training


# What the network takes -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        lambda pixels: (pixels / 255).astype(np.float32),  # nearly black, were it taken for levels
        lambda pixels: pixels.astype(np.int64),
        lambda pixels: pixels.transpose(0, 3, 1, 2),
        lambda pixels: pixels[0],
    ],
    ids=["floats", "integers", "channels first", "one image"],
)
def test_encode_takes_levels_in_one_order_and_nothing_else(encoder, change):
    pixels = np.stack([encoder.pixels(path) for path in PICTURES])
    other = change(pixels)
    as_given = torch.from_numpy if isinstance(encoder, Encoder) else np.asarray
    assert len(encoder.encode(as_given(pixels))) == len(PICTURES)
    with pytest.raises(ClzooError, match=rf"uint8 \(B, H, W, 3\); found a .*{other.dtype} .*call embed"):
        encoder.encode(as_given(other))


def test_what_transform_made_is_not_normalised_again(torch_encoder):
    with pytest.raises(ClzooError, match=r"encode takes .*found a Tensor torch\.float32 \(1, 3, 32, 32\)"):
        torch_encoder.encode(torch_encoder.transform(PICTURES[0])[None])
    with pytest.raises(ClzooError, match="found a ndarray uint8"):
        torch_encoder.encode(torch_encoder.pixels(PICTURES[0])[None])
