"""decode_image: whatever a file holds, out comes 8-bit RGB, upright; or the reason why not."""

from __future__ import annotations

import io
import os
import struct
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

import clzoo
from clzoo.cli import cli
from clzoo.config import Preprocessing
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import MAX_PIXELS, as_rgb, decode_image
from clzoo.transform import resize_and_crop

RED, BLUE = (254, 0, 0), (0, 0, 254)  # as JPEG gives them back


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **options)
    return file.getvalue()


def red_left_blue_right() -> Image.Image:
    image = Image.new("RGB", (64, 32), RED)
    image.paste(BLUE, (32, 0, 64, 32))
    return image


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


def reason_for(data: bytes) -> str:
    with pytest.raises(UnreadableImageError) as error:
        decode_image(data)
    return str(error.value)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_honoured(orientation: int) -> None:
    upright = red_left_blue_right()
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = upright.transpose(undo[orientation]) if orientation in undo else upright
    exif = Image.Exif()
    exif[0x0112] = orientation
    decoded = decode_image(encoded(stored, "JPEG", quality=95, exif=exif))
    assert decoded.size == (64, 32)
    assert np.allclose(np.asarray(decoded)[16, 8], RED, atol=4)
    assert np.allclose(np.asarray(decoded)[16, 56], BLUE, atol=4)


def test_transparency_is_laid_over_white() -> None:
    rgba = Image.new("RGBA", (4, 4), (255, 0, 0, 0))
    rgba.putpixel((0, 0), (255, 0, 0, 255))
    decoded = decode_image(encoded(rgba, "PNG"))
    assert decoded.getpixel((0, 0)) == (255, 0, 0)
    assert decoded.getpixel((3, 3)) == (255, 255, 255)


def test_a_palette_is_looked_up_and_its_transparent_colour_is_white() -> None:
    palette = Image.new("P", (4, 4), 1)
    palette.putpalette([10, 20, 30, 200, 100, 50])
    assert decode_image(encoded(palette, "PNG")).getpixel((0, 0)) == (200, 100, 50)
    assert decode_image(encoded(palette, "PNG", transparency=1)).getpixel((0, 0)) == (255, 255, 255)


def test_cmyk_becomes_rgb() -> None:
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert np.allclose(decode_image(encoded(cyan, "JPEG", quality=95)).getpixel((8, 8)), (0, 255, 255), atol=4)


@pytest.mark.parametrize("mode", ["L", "1", "LA"])
def test_grey_has_three_equal_channels(mode: str) -> None:
    decoded = decode_image(encoded(Image.new("L", (5, 5), 255).convert(mode), "PNG"))
    assert decoded.mode == "RGB"
    assert decoded.getpixel((2, 2)) == (255, 255, 255)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bit_grey_keeps_its_high_byte(format: str) -> None:
    wide = (noise(8, 8).astype(np.uint16) << 8) | 0x7F
    decoded = np.asarray(decode_image(encoded(Image.fromarray(wide), format)))
    assert decoded.shape == (8, 8, 3)
    assert (decoded[..., 0] == wide >> 8).all()


def test_of_an_animation_the_first_frame_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    gif = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert decode_image(gif).getpixel((4, 4)) == (255, 0, 0)


def test_floating_point_pixels_are_refused_because_their_range_is_unknown() -> None:
    assert "floating-point" in reason_for(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"))


@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_a_truncated_file_is_refused(format: str) -> None:
    data = encoded(Image.fromarray(noise(64, 64, 3)), format)
    assert reason_for(data[: len(data) // 2])


def test_zero_bytes_are_called_an_empty_file(tmp_path: Path) -> None:
    assert reason_for(b"") == "empty file (zero bytes)"
    (tmp_path / "empty.jpg").touch()
    with pytest.raises(UnreadableImageError, match="zero bytes"):
        decode_image(tmp_path / "empty.jpg")


def test_a_text_file_is_not_an_image() -> None:
    assert reason_for(b"hello, I am a text file") == "not an image that Pillow can read"


@pytest.mark.parametrize("height", [MAX_PIXELS // 10_000 + 1, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_too_many_pixels_are_refused_before_they_are_decoded(height: int) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 10_000, height, 8, 2, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    assert "pixels" in reason_for(bomb)
    assert str(MAX_PIXELS) in reason_for(bomb)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of clzoo and of Pillow are 1,000 pixels, and as before afterwards."""
    monkeypatch.setattr("clzoo.images.decoding._limit", 1000)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)


@pytest.mark.usefixtures("limits")
@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("format", ["JPEG", "PNG", "WEBP", "TIFF", "GIF", "BMP"])
def test_larger_images_are_refused_with_the_option_that_allows_them_and_then_allowed(format: str) -> None:
    data = encoded(Image.fromarray(noise(60, 50, 3)), format)  # three times the limit: Pillow raises at twice its own
    assert "the limit is 1000; to allow more: --max-pixels N (in Python: clzoo.set_max_pixels(N))" in reason_for(data)
    clzoo.set_max_pixels(3000)
    assert decode_image(data).size == (50, 60)
    clzoo.set_max_pixels(2999)
    assert "50x60 pixels, the limit is 2999" in reason_for(data)


@pytest.mark.usefixtures("limits")
def test_a_limit_of_fewer_pixels_leaves_pillows_own_alone() -> None:
    clzoo.set_max_pixels(500)
    assert Image.MAX_IMAGE_PIXELS == 1000
    assert "the limit is 500" in reason_for(encoded(Image.fromarray(noise(20, 30, 3)), "PNG"))
    with pytest.raises(ClzooError, match="at least 1, found 0"):
        clzoo.set_max_pixels(0)


@pytest.mark.usefixtures("limits")
def test_every_command_that_decodes_images_can_set_the_limit(tmp_path: Path) -> None:
    names = "embed", "search", "pack", "evaluate", "compare", "pretrain", "views", "publish", "export", "store export"
    for name in names:
        assert "--max-pixels N" in CliRunner().invoke(cli, [*name.split(), "--help"]).output, name
    (tmp_path / "images").mkdir()
    Image.fromarray(noise(60, 50, 3)).save(tmp_path / "images" / "a.png")
    pack = ["pack", str(tmp_path / "images"), "--size", "32", "--out", str(tmp_path / "pack")]
    assert "--max-pixels N" in str(CliRunner().invoke(cli, pack).exception)
    assert CliRunner().invoke(cli, [*pack, "--max-pixels", "3000"]).exit_code == 0


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(UnreadableImageError, match="No such file"):
        decode_image(tmp_path / "nowhere.jpg")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything; Windows has other rights")
def test_an_unreadable_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "secret.png"
    path.write_bytes(encoded(red_left_blue_right(), "PNG"))
    path.chmod(0)
    with pytest.raises(UnreadableImageError, match="Permission denied"):
        decode_image(path)


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_a_random_byte_flipped_never_gives_another_error() -> None:
    rng = np.random.default_rng(seed := 7)
    print("seed", seed)
    decoded, reasons = 0, []
    for format in ("PNG", "JPEG", "GIF", "TIFF", "WEBP", "BMP"):
        data = encoded(Image.fromarray(noise(24, 24, 3)), format)
        for _ in range(60):
            damaged = bytearray(data)
            damaged[rng.integers(len(damaged))] ^= 1 << rng.integers(8)
            try:
                assert decode_image(bytes(damaged)).mode == "RGB"
                decoded += 1
            except UnreadableImageError as error:
                reasons.append(str(error))
    assert decoded
    assert reasons
    assert all(reasons)


def test_an_image_too_narrow_to_resize_is_refused_instead_of_exhausting_memory() -> None:
    with pytest.raises(UnreadableImageError, match="too narrow"):
        resize_and_crop(Image.new("RGB", (60_000, 2)), Preprocessing())


# PIL images -----------------------------------------------------------------------------------------------------------


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(Image.fromarray(noise(24, 32, 3)), "JPEG", exif=exif)


def _palette(**options: Any) -> bytes:
    return encoded(Image.fromarray(noise(8, 8, 3)).quantize(8), "PNG", **options)


KINDS = {
    "a turned photograph": _turned(),
    "alpha": encoded(Image.fromarray(noise(8, 8, 4), "RGBA"), "PNG"),
    "grey with alpha": encoded(Image.fromarray(noise(8, 8, 2), "LA"), "PNG"),
    "a palette": _palette(),
    "a palette with a transparent color": _palette(transparency=3),
    "a palette with alpha": _palette(transparency=bytes(range(0, 240, 30))),
    "a color key": encoded(Image.new("RGB", (8, 8), (1, 2, 3)), "PNG", transparency=(1, 2, 3)),
    "one bit": encoded(Image.fromarray(noise(8, 8)).convert("1"), "PNG"),
    "16-bit grey, PNG": encoded(Image.fromarray(noise(8, 8).astype(np.uint16) * 257), "PNG"),
    "16-bit grey, TIFF": encoded(Image.fromarray(noise(8, 8).astype(np.uint16) * 257), "TIFF"),
    "CMYK": encoded(Image.fromarray(noise(8, 8, 4), "CMYK"), "TIFF"),
    "Lab": encoded(Image.fromarray(noise(8, 8, 3), "LAB"), "TIFF"),
    "an animation": encoded(
        Image.new("RGB", (8, 8), RED), "GIF", save_all=True, append_images=[Image.new("RGB", (8, 8), BLUE)]
    ),
}


@pytest.mark.parametrize("data", KINDS.values(), ids=KINDS)
def test_a_pil_image_is_what_its_file_is(data: bytes, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(data)
    expected = np.asarray(decode_image(data))
    assert (np.asarray(as_rgb(tmp_path / "file")) == expected).all()
    with Image.open(io.BytesIO(data)) as unread, Image.open(tmp_path / "file") as loaded:
        loaded.load()
        for image in (unread, loaded, loaded.copy()):
            assert (np.asarray(as_rgb(image)) == expected).all()
            assert (np.asarray(as_rgb(image)) == expected).all(), "the image itself was changed"


@pytest.mark.parametrize("format", ["JPEG", "PNG", "TIFF", "WEBP", "GIF"])
def test_threads_may_share_a_pil_image_that_is_not_read_yet(format: str) -> None:
    data = encoded(Image.fromarray(noise(200, 300, 3)), format)
    expected = np.asarray(decode_image(data))
    with Image.open(io.BytesIO(data)) as image, ThreadPoolExecutor(8) as pool:
        assert all((np.asarray(each) == expected).all() for each in pool.map(as_rgb, [image] * 24))


def test_a_fourth_byte_that_is_zero_everywhere_does_not_make_a_bitmap_transparent() -> None:
    pixels = noise(8, 8, 4)
    pixels[..., 3] = 0
    masks = struct.pack("<IIII", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    info = struct.pack("<IiiHHIIiiII", 108, 8, -8, 1, 32, 3, 256, 0, 0, 0, 0) + masks + bytes(52)
    data = b"BM" + struct.pack("<IHHI", 14 + 108 + 256, 0, 0, 14 + 108) + info
    with Image.open(io.BytesIO(data + pixels.tobytes())) as image:
        assert image.mode == "RGBA"
    assert (np.asarray(decode_image(data + pixels.tobytes())) == pixels[..., 2::-1]).all()
    pixels[0, 0, 3] = 255
    assert decode_image(data + pixels.tobytes()).getpixel((1, 0)) == (255, 255, 255)


def test_a_later_frame_that_was_chosen_stays_chosen() -> None:
    with Image.open(io.BytesIO(KINDS["an animation"])) as animation:
        animation.seek(1)
        assert np.allclose(as_rgb(animation).getpixel((4, 4)), BLUE, atol=4)


@pytest.mark.parametrize("array", [np.ones((4, 4), np.float32), np.ones((4, 4), np.int32)], ids=["float", "integer"])
def test_a_pil_image_of_pixels_without_an_agreed_range_is_refused(array: np.ndarray) -> None:
    with pytest.raises(UnreadableImageError, match="no agreed range"):
        as_rgb(Image.fromarray(array))
