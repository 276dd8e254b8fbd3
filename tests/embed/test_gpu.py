"""The road of a GPU: on a CPU with torchvision's own decoder in the place of nvJPEG, and on a GPU as it is."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from pictures import assert_same_rows, by_path, make_images
from PIL import Image
from small_models import small_encoder

import clzoo
from clzoo import ClzooError, Encoder, embed_folder, open_store
from clzoo.config import Preprocessing
from clzoo.data.sources import list_images
from clzoo.embed import gpu, stream
from clzoo.embed.batch import Clock, Encoded, Settings
from clzoo.embed.gpu import COMPILE_FROM, compile_pays, encode_on_gpu

SETTINGS = Settings(batch_size=4, workers=3, dtype="fp32", store_dtype="fp32", normalize=True)
PICTURES = Path(__file__).parents[2] / "examples" / "pictures"


def by_torchvision(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
    return [torchvision.io.decode_jpeg(one, torchvision.io.ImageReadMode.RGB) for one in encoded]


def on_gpu_road(images: Path, encoder: Encoder, settings: Settings = SETTINGS, **options: object) -> list[Encoded]:
    items = list_images(images).items
    parts = stream._split(np.arange(len(items)), -(-len(items) // settings.batch_size))
    return list(encode_on_gpu(items, parts, encoder, settings, Clock(), **options))  # type: ignore[arg-type]


def vectors(parts: list[Encoded]) -> np.ndarray:
    return np.concatenate([part.vectors for part in parts])


def reasons(parts: list[Encoded]) -> dict[str, str]:
    return {failure.path: failure.reason for part in parts for failure in part.failures}


def test_the_road_of_a_gpu_gives_the_same_batches_in_the_same_order(images: Path, encoder: Encoder) -> None:
    """Its ring of buffers and its order, on a CPU; copies and events are tested below, on a GPU."""
    (images / "aaa").mkdir()
    for number in range(7):  # more than a batch that cannot be decoded
        (images / "aaa" / f"{number}.jpg").touch()
    items = list_images(images).items
    positions = np.arange(len(items))[::-1]  # not the order of the listing
    both = [
        list(road(items, stream._split(positions, 9), encoder, SETTINGS, Clock()))
        for road in (stream._on_cpu, encode_on_gpu)
    ]
    assert np.concatenate([part.positions for part in both[1]]).tolist() == positions[:24].tolist()
    for one, other in zip(*both, strict=True):
        assert (one.positions == other.positions).all()
        assert one.failures == other.failures
        np.testing.assert_allclose(one.vectors, other.vectors, atol=1e-5)


# Decoding on the GPU --------------------------------------------------------------------------------------------------


def test_plain_jpegs_go_to_the_decoder_and_all_else_to_pillow(
    images: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    good = (images / "cats" / "000.jpg").read_bytes()
    (images / "cats" / "000.jpg").write_bytes(good[: len(good) // 2])
    given: list[int] = []

    def decode(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        given.append(len(encoded))
        return by_torchvision(encoded)

    caplog.set_level(logging.INFO, "clzoo")
    expected = on_gpu_road(images, encoder)
    found = on_gpu_road(images, encoder, replace(SETTINGS, decode="gpu"), decode=decode)
    assert sum(given) == 11  # the JPEG files but the truncated one; the others are PNG
    assert "decoded on the GPU: 11 of 24 images" in caplog.text
    assert reasons(found) == reasons(expected)
    assert list(reasons(found)) == ["cats/000.jpg"]
    np.testing.assert_allclose(vectors(found), vectors(expected), atol=1e-2)


def test_the_pixels_of_the_decoder_are_those_that_are_embedded(images: Path, encoder: Encoder) -> None:
    def negatives(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        return [255 - image for image in by_torchvision(encoded)]

    expected = vectors(on_gpu_road(images, encoder))
    found = vectors(on_gpu_road(images, encoder, replace(SETTINGS, decode="gpu"), decode=negatives))
    is_other = np.abs(found - expected).max(axis=1) > 1e-3
    assert is_other.tolist() == [True] * 12 + [False] * 12  # cats are JPEG, dogs are PNG


def test_a_file_that_the_decoder_refuses_is_decoded_by_pillow_alone_and_counted(
    images: Path, encoder: Encoder, caplog: pytest.LogCaptureFixture
) -> None:
    whole = (images / "cats" / "004.jpg").read_bytes()
    broken = images / "cats" / "002.jpg"
    head = whole[: whole.index(b"\xff\xda")]
    broken.write_bytes(head + b"\xff\xd9")  # looks whole and plain, and holds no image

    def decode(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        if any(bytes(one.numpy()) == whole or bytes(one.numpy()) == broken.read_bytes() for one in encoded):
            raise RuntimeError("nvjpeg: not supported\nand a trace")
        return by_torchvision(encoded)

    expected = on_gpu_road(images, encoder)
    found = on_gpu_road(images, encoder, replace(SETTINGS, decode="gpu"), decode=decode)
    assert "nvJPEG refused 2 plain JPEG files, which were decoded on the CPU: nvjpeg: not supported" in caplog.text
    assert "trace" not in caplog.text
    assert reasons(found) == reasons(expected)
    assert list(reasons(found)) == ["cats/002.jpg"]
    rows = {position: row for part in found for position, row in zip(part.positions, part.vectors, strict=True)}
    exact = {position: row for part in expected for position, row in zip(part.positions, part.vectors, strict=True)}
    np.testing.assert_allclose(rows[2], exact[2], atol=1e-6)  # 004.jpg, by Pillow after all


def test_a_decoder_without_memory_ends_the_run_and_no_file_is_blamed(images: Path, encoder: Encoder) -> None:
    def decode(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        on_gpu_road(images, encoder, replace(SETTINGS, decode="gpu"), decode=decode)


def test_real_pictures_keep_their_vectors(encoder: Encoder) -> None:
    pictures = PICTURES / "big_cats"
    expected = vectors(on_gpu_road(pictures, encoder))
    found = vectors(on_gpu_road(pictures, encoder, replace(SETTINGS, decode="gpu"), decode=by_torchvision))
    assert (expected * found).sum(axis=1).min() > 0.9999


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"decode": "gpu"}, "decode 'gpu' needs an NVIDIA GPU, the encoder is on cpu. Ask for --decode cpu"),
        ({"decode": "nvjpeg"}, "decode must be one of cpu, gpu, found 'nvjpeg'"),
    ],
)
def test_a_decoder_that_is_not_there_is_an_error_before_anything_is_written(
    images: Path, encoder: Encoder, tmp_path: Path, options: dict[str, str], message: str
) -> None:
    with pytest.raises(ClzooError, match=message):
        embed_folder(images, encoder, tmp_path / "store", progress=False, **options)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_a_store_says_how_its_images_were_decoded(
    images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encoder = small_encoder()
    for module in ("clzoo.embed.pipeline.nvjpeg", "clzoo.embed.gpu.nvjpeg"):
        monkeypatch.setattr(module, lambda device: by_torchvision)
    embed_folder(images, encoder, tmp_path / "store", progress=False, decode="gpu")
    assert open_store(tmp_path / "store").manifest.compute == ("fp32, JPEG decoded by nvJPEG",)
    make_images(images / "more", 2, seed=9)
    embed_folder(images, encoder, tmp_path / "store", progress=False)
    assert open_store(tmp_path / "store").manifest.compute == ("fp32, JPEG decoded by nvJPEG", "fp32")
    assert "computed in fp32, JPEG decoded by nvJPEG; this run adds rows in fp32" in caplog.text


# Compiling ------------------------------------------------------------------------------------------------------------


def test_only_long_jobs_on_cuda_are_compiled() -> None:
    cuda, cpu = torch.device("cuda:1"), torch.device("cpu")
    assert compile_pays(cuda, COMPILE_FROM)
    assert not compile_pays(cuda, COMPILE_FROM - 1)
    assert not compile_pays(cpu, COMPILE_FROM)


def test_a_compiler_that_fails_is_an_error_that_says_how_to_do_without(
    images: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compile_(module: torch.nn.Module, **_: object) -> None:
        raise RuntimeError("\nno C++ compiler\nsecond line")

    monkeypatch.setattr(gpu.torch, "compile", compile_)
    with pytest.raises(ClzooError, match=r"cannot compile test_resnet on cpu: no C\+\+ compiler\. .*--backend torch"):
        on_gpu_road(images, encoder, replace(SETTINGS, compile=True))


def test_a_compiled_network_sees_one_shape_only(
    images: Path, encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    (images / "cats" / "000.jpg").write_bytes(b"")
    shapes = set()

    class Watched(torch.nn.Module):
        def __init__(self, module: torch.nn.Module) -> None:
            super().__init__()
            self.module = module

        def forward(self, pixels: torch.Tensor) -> torch.Tensor:
            shapes.add(tuple(pixels.shape))
            return self.module(pixels)

    monkeypatch.setattr(gpu.torch, "compile", lambda module, **_: Watched(module))
    settings = replace(SETTINGS, batch_size=7)  # 24 images in batches of 6
    expected = on_gpu_road(images, encoder, settings)
    found = on_gpu_road(images, encoder, replace(settings, compile=True))
    assert shapes == {(7, 3, 32, 32)}
    assert reasons(found) == reasons(expected)
    np.testing.assert_allclose(vectors(found), vectors(expected), atol=1e-5)


@pytest.mark.slow
def test_a_really_compiled_network_gives_the_same_vectors_and_is_compiled_once(images: Path) -> None:
    from torch._dynamo.utils import counters

    torch._dynamo.reset()
    counters.clear()
    encoder = small_encoder()
    keys, sha256 = list(encoder.module.state_dict()), encoder.weights_sha256
    settings = replace(SETTINGS, batch_size=7, compile=True)
    found = on_gpu_road(images, encoder, settings)
    np.testing.assert_allclose(vectors(found), vectors(on_gpu_road(images, encoder)), atol=1e-4)
    assert counters["stats"]["unique_graphs"] == 1
    assert list(encoder.module.state_dict()) == keys
    encoder._hashed = None
    assert encoder.weights_sha256 == sha256


# On a GPU -------------------------------------------------------------------------------------------------------------


@pytest.mark.gpu
def test_a_gpu_gives_the_same_vectors(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    there = Encoder(small_encoder().module, encoder.config, "cuda")
    (images / "cats" / "empty.png").touch()
    embed_folder(images, encoder, tmp_path / "cpu", progress=False)
    embed_folder(images, there, tmp_path / "gpu", progress=False, batch_size=5, dtype="fp32")
    assert_same_rows(open_store(tmp_path / "gpu"), by_path(open_store(tmp_path / "cpu")))


@pytest.mark.gpu
@pytest.mark.parametrize("seed", range(3))
def test_many_batches_in_flight_on_a_gpu_are_not_mixed_up(encoder: Encoder, tmp_path: Path, seed: int) -> None:
    """400 batches through a ring of four buffers: one that is filled too early gives a vector of another image."""
    images = make_images(tmp_path / "images", 1200, seed)
    there = Encoder(small_encoder().module, encoder.config, "cuda")
    settings = replace(SETTINGS, batch_size=3, workers=8)
    expected = vectors(on_gpu_road(images, there, replace(settings, batch_size=600)))
    np.testing.assert_allclose(vectors(on_gpu_road(images, there, settings)), expected, atol=1e-3)


def photograph_encoder(device: str) -> Encoder:
    """A ResNet-18 at 224 px with random weights."""
    config = small_encoder().config
    preprocessing = Preprocessing(size=224, crop_pct=0.875)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Encoder.untrained(
            replace(config, architecture="resnet18", num_features=512, preprocessing=preprocessing), device
        )


@pytest.mark.gpu
def test_nvjpeg_gives_nearly_the_vectors_of_pillow_on_photographs() -> None:
    there = photograph_encoder("cuda")
    settings = replace(SETTINGS, batch_size=16, workers=8)
    expected = vectors(on_gpu_road(PICTURES, there, settings))
    found = vectors(on_gpu_road(PICTURES, there, replace(settings, decode="gpu")))
    assert len(found) > 100
    assert (expected * found).sum(axis=1).min() >= 0.999
    assert not np.array_equal(expected, found)


@pytest.mark.gpu
def test_nvjpeg_leaves_a_stream_of_work_as_it_is() -> None:
    """Kernels that are queued still read memory that was freed: nvJPEG must not write there before they are done."""
    there = photograph_encoder("cuda")
    settings = replace(SETTINGS, batch_size=16, workers=8, decode="gpu")
    once = vectors(on_gpu_road(PICTURES, there, settings))
    for _ in range(5):
        np.testing.assert_allclose(vectors(on_gpu_road(PICTURES, there, settings)), once, atol=1e-3)


@pytest.mark.gpu
def test_what_nvjpeg_cannot_do_goes_to_pillow(tmp_path: Path, encoder: Encoder) -> None:
    images = make_images(tmp_path / "images", 6)
    picture = Image.open(images / "cats" / "000.jpg")
    picture.save(images / "progressive.jpg", progressive=True)
    picture.convert("CMYK").save(images / "cmyk.jpg")
    picture.convert("L").save(images / "grey.jpg")
    whole = io.BytesIO()
    picture.save(whole, "JPEG")
    (images / "cut.jpg").write_bytes(whole.getvalue()[:-40])
    (images / "hollow.jpg").write_bytes(whole.getvalue()[:-300] + b"\xff\xd9")
    there = Encoder(small_encoder().module, encoder.config, "cuda")
    expected = on_gpu_road(images, there)
    found = on_gpu_road(images, there, replace(SETTINGS, decode="gpu"))
    assert set(reasons(found)) - {"hollow.jpg"} == set(reasons(expected)) - {"hollow.jpg"} == {"cut.jpg"}


@pytest.mark.gpu
@pytest.mark.slow
def test_a_compiled_network_on_a_gpu_gives_nearly_the_same_vectors() -> None:
    there = photograph_encoder("cuda")
    settings = replace(SETTINGS, batch_size=16, workers=8, dtype="bf16")
    expected = vectors(on_gpu_road(PICTURES, there, settings))
    found = vectors(on_gpu_road(PICTURES, there, replace(settings, compile=True)))
    assert (expected * found).sum(axis=1).min() >= 0.999


@pytest.mark.gpu
def test_a_folder_is_embedded_on_a_gpu_with_its_decoder(images: Path, encoder: Encoder, tmp_path: Path) -> None:
    there = Encoder(small_encoder().module, encoder.config, "cuda")
    clzoo.embed_folder(images, there, tmp_path / "store", progress=False, decode="gpu")
    assert open_store(tmp_path / "store").manifest.compute == ("bf16, JPEG decoded by nvJPEG",)
    assert len(open_store(tmp_path / "store")) == 24
