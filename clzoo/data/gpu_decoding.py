"""JPEG files decoded by an NVIDIA GPU: which files it may have, and what to do about those that it refuses.

nvJPEG rounds otherwise than libjpeg and interpolates chroma otherwise, so its pixels are not quite Pillow's. All that
goes beyond a plain photograph is left to Pillow, whose rules are those of `clzoo.images`: rotation by EXIF, color
profiles, CMYK, grey, 16 bits, and files that are cut off, of which nvJPEG makes an image without a word.
"""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Sequence

import torch
from PIL import ExifTags, Image

from clzoo.config import Preprocessing
from clzoo.errors import ClzooError, UnreadableImageError
from clzoo.images import max_pixels
from clzoo.images.color import changes_nothing
from clzoo.transform import resize_and_crop_tensor

log = logging.getLogger("clzoo")

Decode = Callable[[list[torch.Tensor]], list[torch.Tensor]]
"""Encoded files, uint8 (bytes,) on the CPU -> RGB images, uint8 (3, H, W); a RuntimeError if any is refused."""

_YCBCR = [1, 2, 3]  # ids of the components; with others libjpeg guesses the color space
_SAMPLING = {(1, 1), (2, 1), (1, 2), (2, 2), (4, 1)}  # luma columns and rows for each of chroma
_END = b"\xff\xd9"


def is_plain_jpeg(data: bytes) -> bool:
    """Whether a file is a whole 8-bit YCbCr JPEG in sRGB that no EXIF tag rotates; only the header is read."""
    if not (data.startswith(b"\xff\xd8") and data.endswith(_END)):
        return False
    try:
        with Image.open(io.BytesIO(data), formats=("JPEG",)) as image:
            (luma, *chroma) = [layer[1:3] for layer in image.layer]  # type: ignore[attr-defined]
            return (
                image.format == "JPEG"  # Pillow calls several images in one file MPO
                and image.mode == "RGB"
                and [layer[0] for layer in image.layer] == _YCBCR  # type: ignore[attr-defined]
                and image.info.get("adobe_transform", 1) == 1
                and luma in _SAMPLING
                and set(chroma) == {(1, 1)}
                and image.width * image.height <= max_pixels()
                and changes_nothing(image.info.get("icc_profile"))
                and image.getexif().get(ExifTags.Base.Orientation, 1) == 1
            )
    except Exception:  # whatever is wrong with the file, Pillow's own road names it
        return False


def nvjpeg(device: torch.device) -> Decode:
    """The decoder of a CUDA device.

    Raises:
        ClzooError: another device, or neither torchcodec nor torchvision reaches nvJPEG.
    """
    if device.type != "cuda":
        raise ClzooError(f"decode 'gpu' needs an NVIDIA GPU, the encoder is on {device}. Ask for --decode cpu.")

    library, decode_jpegs = _library()

    def decode(encoded: list[torch.Tensor]) -> list[torch.Tensor]:
        with torch.cuda.device(device):
            # nvJPEG's hardware engine does not wait for the stream that its output was allocated on, and so may write
            # into memory that kernels queued there still read (pytorch/vision#9606).
            torch.cuda.current_stream().synchronize()
            try:
                return decode_jpegs(encoded, device)
            except RuntimeError as error:
                torch.cuda.synchronize()  # it may still write into what was just freed
                if "out of memory" in str(error):  # the libraries make another kind of error of it
                    raise torch.OutOfMemoryError(str(error)) from error
                raise

    probe = io.BytesIO()
    Image.new("RGB", (16, 16)).save(probe, "JPEG")
    try:
        decode([_bytes_tensor(probe.getvalue())])
    except (RuntimeError, AttributeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ClzooError(
            f"{library} cannot decode JPEG on {device}: {reason}. Ask for --decode cpu, or type: "
            'pip install "clzoo[jpeg]" (a torchcodec that fits this torch and is built for CUDA; docs/scale.md)'
        ) from error
    log.info("JPEG files are decoded on %s by nvJPEG, through %s", device, library)
    return decode


def _library() -> tuple[str, Callable[[list[torch.Tensor], torch.device], list[torch.Tensor]]]:
    """What reaches nvJPEG, by name: torchcodec where it is installed; else torchvision, which gives its decoder up."""
    try:
        import torchcodec
        from torchcodec.decoders import decode_jpeg
    except (ImportError, OSError, RuntimeError):  # not there, without image decoders, or built for another torch
        import torchvision

        def by_torchvision(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
            images: list[torch.Tensor] = torchvision.io.decode_jpeg(
                encoded, torchvision.io.ImageReadMode.RGB, device=device
            )
            return images

        return f"torchvision {torchvision.__version__}", by_torchvision

    def by_torchcodec(encoded: list[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
        images: list[torch.Tensor] = decode_jpeg(encoded, mode="RGB", device=device)
        return images

    return f"torchcodec {torchcodec.__version__}", by_torchcodec


def decode_and_fit(jpegs: Sequence[bytes], decode: Decode, p: Preprocessing) -> list[torch.Tensor | str]:
    """Files -> uint8 (size, size, 3) each where `decode` puts them, or in the place of an image why it was refused.

    Raises:
        torch.OutOfMemoryError: that is no fault of a file.
    """
    encoded = [_bytes_tensor(jpeg) for jpeg in jpegs]
    try:
        images: list[torch.Tensor | str] = list(decode(encoded)) if encoded else []
    except torch.OutOfMemoryError:
        raise
    except RuntimeError:  # one is refused, and that fails all
        images = [_or_reason(lambda one: decode([one])[0], tensor) for tensor in encoded]
    return [
        image if isinstance(image, str) else _or_reason(lambda one: resize_and_crop_tensor(one, p), image)
        for image in images
    ]


def _or_reason(function: Callable[[torch.Tensor], torch.Tensor], value: torch.Tensor) -> torch.Tensor | str:
    try:
        return function(value)
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, UnreadableImageError) as error:
        return str(error).strip().partition("\n")[0]


def _bytes_tensor(data: bytes) -> torch.Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)  # a copy: torch wants memory that it may write to
