"""Which files a GPU may decode, and how near the resize on a device is to Pillow's."""

from __future__ import annotations

import io
import struct
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image, ImageCms

from clzoo import ClzooError
from clzoo.config import Preprocessing
from clzoo.data import gpu_decoding
from clzoo.data.gpu_decoding import is_plain_jpeg, nvjpeg
from clzoo.errors import UnreadableImageError
from clzoo.images import decode_image
from clzoo.transform import resize_and_crop, resize_and_crop_tensor

PICTURES = sorted((Path(__file__).parents[2] / "examples" / "pictures").rglob("*.jpg"))


def picture(mode: str = "RGB", size: tuple[int, int] = (40, 30)) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    return Image.fromarray(pixels).convert(mode)


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", **options)
    return file.getvalue()


def rotated(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return jpeg(picture(), exif=exif)


def png() -> bytes:
    file = io.BytesIO()
    picture().save(file, "PNG")
    return file.getvalue()


def with_component_ids(ids: bytes) -> bytes:
    """As libjpeg writes RGB without a change of color space: the components are called R, G and B."""
    data = bytearray(jpeg(picture(), subsampling=0))
    frame = data.index(b"\xff\xc0") + 10  # of the first component
    scan = data.index(b"\xff\xda") + 5
    for number, name in enumerate(ids):
        data[frame + 3 * number] = name
        data[scan + 2 * number] = name
    return bytes(data)


@pytest.mark.parametrize("subsampling", ["4:4:4", "4:2:2", "4:2:0"])
@pytest.mark.parametrize("progressive", [False, True])
def test_whole_rgb_photographs_are_plain(subsampling: str, progressive: bool) -> None:
    assert is_plain_jpeg(jpeg(picture(), subsampling=subsampling, progressive=progressive))


def test_so_are_those_of_the_examples_and_one_that_exif_leaves_upright() -> None:
    assert len(PICTURES) > 100
    assert all(is_plain_jpeg(path.read_bytes()) for path in PICTURES)
    assert is_plain_jpeg(rotated(1))


def with_profile(white: float) -> bytes:
    """A profile of sRGB, or, by another white of its red, of another space."""
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    red = struct.unpack_from(">I", profile, profile.index(b"rXYZ") + 4)[0] + 8
    (value,) = struct.unpack_from(">i", profile, red)
    struct.pack_into(">i", profile, red, round(value * white))
    return jpeg(picture(), icc_profile=bytes(profile))


def test_a_photograph_in_srgb_is_plain_although_it_says_so() -> None:
    assert is_plain_jpeg(with_profile(1.0))


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_profile(1.3), id="another color space"),
        pytest.param(b"", id="empty"),
        pytest.param(b"\xff\xd8\xff\xd9", id="no header"),
        pytest.param(png(), id="png"),
        pytest.param(jpeg(picture("L")), id="grey"),
        pytest.param(jpeg(picture("CMYK")), id="cmyk"),
        pytest.param(jpeg(picture())[:-60], id="truncated"),
        pytest.param(jpeg(picture()) + b"\0\0", id="something after the end"),
        pytest.param(b"\0" + jpeg(picture()), id="something before the start"),
        pytest.param(jpeg(picture(), keep_rgb=True), id="rgb"),
        pytest.param(with_component_ids(b"RGB"), id="rgb by its names"),
        *(pytest.param(rotated(value), id=f"orientation {value}") for value in range(2, 9)),
    ],
)
def test_everything_else_is_left_to_pillow(data: bytes) -> None:
    assert not is_plain_jpeg(data)


def test_an_image_of_too_many_pixels_is_left_to_pillow_which_refuses_it() -> None:
    data = bytearray(jpeg(picture()))
    frame = data.index(b"\xff\xc0") + 5
    data[frame : frame + 4] = b"\xff\xff\xff\xff"  # 65535 x 65535
    assert not is_plain_jpeg(bytes(data))
    with pytest.raises(UnreadableImageError, match="pixels"):
        decode_image(bytes(data))


def test_a_cpu_has_no_nvjpeg() -> None:
    with pytest.raises(ClzooError, match="needs an NVIDIA GPU, the encoder is on cpu"):
        nvjpeg(torch.device("cpu"))


@pytest.mark.parametrize("installed", [True, False])
def test_torchcodec_decodes_where_it_is_installed_and_torchvision_elsewhere(
    installed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec, decoders = ModuleType("torchcodec"), ModuleType("torchcodec.decoders")
    asked = []

    def decode_jpeg(files: list[torch.Tensor], *, mode: str, device: torch.device) -> list[torch.Tensor]:
        asked.append((len(files), mode, device))
        return [torch.zeros(3, 1, 1, dtype=torch.uint8) for _ in files]

    vars(codec).update(__version__="0.99", decoders=decoders)
    if installed:
        vars(decoders).update(decode_jpeg=decode_jpeg)
    monkeypatch.setitem(sys.modules, "torchcodec", codec)
    monkeypatch.setitem(sys.modules, "torchcodec.decoders", decoders)
    name, decode = gpu_decoding._library()
    assert name == ("torchcodec 0.99" if installed else f"torchvision {torchvision.__version__}")
    files = [torch.frombuffer(bytearray(jpeg(picture())), dtype=torch.uint8)] * 2
    if installed:
        assert [image.shape for image in decode(files, torch.device("cuda", 1))] == [(3, 1, 1)] * 2
        assert asked == [(2, "RGB", torch.device("cuda", 1))]


def test_torchcodec_makes_pillows_pixels_of_every_plain_photograph() -> None:
    pytest.importorskip("torchcodec")
    name, decode = gpu_decoding._library()
    assert name.startswith("torchcodec")
    files = [path.read_bytes() for path in PICTURES]
    plain = [data for data in files if is_plain_jpeg(data)]
    assert len(plain) > len(files) / 2
    found = decode([torch.frombuffer(bytearray(data), dtype=torch.uint8) for data in plain], torch.device("cpu"))
    for data, image in zip(plain, found, strict=True):
        np.testing.assert_array_equal(image.permute(1, 2, 0).numpy(), np.asarray(decode_image(data)))


@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("size", [32, 64])
def test_the_resize_on_a_device_is_pillows_but_for_single_levels(interpolation: str, size: int) -> None:
    p = Preprocessing(size=size, crop_pct=0.875, interpolation=interpolation)
    values = differ = 0
    for path in PICTURES[::4]:
        image = decode_image(path)
        tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
        found = resize_and_crop_tensor(tensor, p).numpy().astype(int)
        difference = np.abs(found - resize_and_crop(image, p))
        assert difference.max() <= 1
        values, differ = values + difference.size, differ + int((difference > 0).sum())
    assert differ / values < 0.01


@pytest.mark.parametrize("shape", [(40, 70), (70, 40), (41, 41), (224, 301)])
def test_it_crops_where_pillow_does(shape: tuple[int, int]) -> None:
    p = Preprocessing(size=35, crop_pct=35 / 41)
    image = picture(size=shape)
    tensor = torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)
    found = resize_and_crop_tensor(tensor, p)
    assert found.shape == (35, 35, 3)
    assert np.abs(found.numpy().astype(int) - resize_and_crop(image, p)).max() <= 1


def test_what_pillows_road_refuses_or_pads_is_refused() -> None:
    with pytest.raises(UnreadableImageError, match="too narrow"):
        resize_and_crop_tensor(torch.zeros(3, 1, 60_000, dtype=torch.uint8), Preprocessing())
    with pytest.raises(ClzooError, match="does not fit"):
        resize_and_crop_tensor(torch.zeros(3, 40, 40, dtype=torch.uint8), Preprocessing(size=32, crop_pct=1.25))
