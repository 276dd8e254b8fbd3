"""A model run by other libraries: the same images through each of them, and their vectors beside ours.

The rule by which an entry promises to load elsewhere is `ModelConfig.timm_builds_it`: transformers and
sentence-transformers go through timm. What is run here shows whether the promise holds, and whether a library that was
promised nothing refuses the entry, as it must: a wrong vector without an error is the one outcome that nobody notices.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image

from clzoo.config import LONGEST_CONFIG
from clzoo.encoder import Encoder
from clzoo.errors import ClzooError
from clzoo.export.parity import MAX_DIFFERENCE, MIN_COSINE
from clzoo.files import read_json
from clzoo.graphs.provenance import FEATURE, GRAPH, IMAGES, PIXELS, Provenance
from clzoo.images import as_rgb
from clzoo.lite.encoder import LiteEncoder
from clzoo.proof import probe_image
from clzoo.wording import cut, type_and_first_line
from clzoo.zoo.entries import WEIGHTS
from clzoo.zoo.locating import Located, locate, read_encoder
from clzoo.zoo.saving import save_entry

PHOTOGRAPHS = Path(__file__).resolve().parents[1] / "photographs"
"""Three photographs in the public domain; SOURCES.csv says whose."""

_LONGEST_REASON = 300  # characters

Vectors = np.ndarray  # float32 (N, dim)
Runner = Callable[["_Entry", list[Image.Image]], Vectors]


@dataclass(frozen=True)
class Comparison:
    """What one library made of a model: vectors beside ours, or why there are none."""

    library: str
    version: str | None  # of the library; None: not installed
    status: str  # "same", "differs", "refused" (nothing was promised), "failed" or "not installed"
    cosines: dict[str, float]  # of each image; empty without vectors
    max_difference: float | None  # between values of L2-normalised vectors
    reason: str = ""  # of a refusal or failure, in the library's words; or what to type

    @property
    def problem(self) -> str | None:
        """What is wrong, in words; None if nothing is."""
        if self.status == "differs":
            return (
                f"{self.library} {self.version} loads it without an error and gives other vectors: cosine "
                f"{min(self.cosines.values()):.4f} at worst, largest difference {self.max_difference:.2g}"
            )
        if self.status == "failed":
            return f"{self.library} {self.version} should load it and does not: {self.reason}"
        return f"{self.library} is not installed. {self.reason}" if self.status == "not installed" else None

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        return {**asdict(self), "problem": self.problem}


def compare_elsewhere(
    name_or_path: str | Path,
    libraries: Sequence[str],
    *,
    revision: str | None = None,
    cache_dir: str | Path | None = None,
    offline: bool = False,
) -> list[Comparison]:
    """Run a model on the CPU in each of `libraries` (of `LIBRARIES`), on the probe image and three photographs.

    Other libraries get the folder as it lies here, as anybody would load it; a model whose folder is no whole entry (of
    the cache, or a file of another name) is written into a temporary one first. Other arguments: `clzoo.load`.

    Raises:
        ClzooError: an unknown library, a folder that names code to run, or what `load` raises.
    """
    for library in libraries:
        if library not in LIBRARIES:
            raise ClzooError(f"{library!r} is no library that clzoo compares with; they are {', '.join(LIBRARIES)}.")
    found = locate(name_or_path, revision=revision, cache_dir=cache_dir, offline=offline)
    encoder = read_encoder(found, torch.device("cpu"))
    images = test_images()
    ours = encoder.embed(list(images.values()))
    with ExitStack() as stack:
        folder = stack.enter_context(_as_folder(found, encoder))
        if "auto_map" in read_json(folder / "config.json", LONGEST_CONFIG):
            raise ClzooError(
                f"{folder / 'config.json'} has auto_map, which names code for transformers to run. clzoo runs none. "
                "Remove that key: no model of clzoo needs it."
            )
        entry = _Entry(encoder, folder, stack)
        return [_compare(LIBRARIES[library], entry, images, ours) for library in dict.fromkeys(libraries)]


def test_images() -> dict[str, Image.Image]:
    """Name -> RGB image: the probe, and the photographs."""
    images = {"probe": Image.fromarray(probe_image())}
    return images | {path.stem: as_rgb(path) for path in sorted(PHOTOGRAPHS.glob("*.jpg"))}


class _Entry:
    """A model's folder and, made at the first need, its exported graph."""

    def __init__(self, encoder: Encoder, folder: Path, stack: ExitStack) -> None:
        self.encoder, self.folder, self._stack = encoder, folder, stack
        self._graph: Path | None = folder / GRAPH if (folder / GRAPH).is_file() else None

    @property
    def has_graph(self) -> bool:
        return self._graph is not None

    def graph(self) -> Path:
        """The published graph, or a new one that is gone afterwards."""
        if self._graph is None:
            place = Path(self._stack.enter_context(TemporaryDirectory(prefix="clzoo-graph-")))
            self.encoder.export(place / GRAPH)
            self._graph = place / GRAPH
        return self._graph


@dataclass(frozen=True)
class _Library:
    name: str
    run: Runner
    packages: tuple[str, ...]  # the first is the one whose version is told
    builds_through_timm: bool = False
    exports: bool = False  # needs a graph


def _compare(library: _Library, entry: _Entry, images: dict[str, Image.Image], ours: Vectors) -> Comparison:
    packages = library.packages + (("onnx", "onnxscript") if library.exports and not entry.has_graph else ())
    if missing := [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]:
        extra = "cpu" if library.exports else "interop"
        why = f'Type: pip install "clzoo[{extra}]" (missing: {", ".join(missing)})'
        return Comparison(library.name, None, "not installed", {}, None, why)
    version = _version_of(library.packages[0])
    try:
        theirs = library.run(entry, list(images.values()))
    except Exception as error:  # of whatever kind that library raises
        promised = not library.builds_through_timm or entry.encoder.config.timm_builds_it
        reason = cut(type_and_first_line(error), _LONGEST_REASON)
        return Comparison(library.name, version, "failed" if promised else "refused", {}, None, reason)
    if theirs.shape != ours.shape:
        reason = f"it gives vectors of {theirs.shape[1:]}, ours are of {ours.shape[1:]}"
        return Comparison(library.name, version, "failed", {}, None, reason)
    cosines = (ours.astype(np.float64) * theirs).sum(axis=1) / np.linalg.norm(theirs.astype(np.float64), axis=1)
    difference = float(np.abs(ours - theirs).max())
    same = cosines.min() >= required if (required := _required_cosine(library, entry)) else difference <= MAX_DIFFERENCE
    per_image = dict(zip(images, map(float, cosines), strict=True))
    return Comparison(library.name, version, "same" if same else "differs", per_image, difference)


def _version_of(package: str) -> str:
    """Of a module, whichever distribution brings it: onnxruntime is also onnxruntime-gpu's and -openvino's."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return str(importlib.import_module(package.replace("-", "_")).__version__)


def _required_cosine(library: _Library, entry: _Entry) -> float | None:
    """Of a graph that computes in fewer digits, or resizes by itself; None: every value must agree."""
    if not library.exports:
        return None
    p = LiteEncoder(entry.graph()).provenance
    return None if p.dtype == "fp32" and not p.preprocess else MIN_COSINE[p.dtype]


@contextmanager
def _as_folder(found: Located, encoder: Encoder) -> Iterator[Path]:
    folder = found.weights.parent
    if found.origin in ("bundled", "local") and found.weights.name == WEIGHTS:
        yield folder
        return
    with TemporaryDirectory(prefix="clzoo-entry-") as place:
        yield save_entry(encoder, Path(place) / "entry")


def _unit(vectors: torch.Tensor | np.ndarray) -> Vectors:
    """float32 rows of length 1; of a zero row nothing can be said, and NaN is never equal to ours."""
    array = np.asarray(vectors, np.float32)
    return array / np.linalg.norm(array, axis=1, keepdims=True)


# -- one function for each library: images -> L2-normalised vectors, as its own documentation has it -------------------


@torch.inference_mode()
def _in_timm(entry: _Entry, images: list[Image.Image]) -> Vectors:
    import timm

    model = timm.create_model(f"local-dir:{entry.folder}", pretrained=True).eval()
    transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    return _unit(model(torch.stack([transform(image) for image in images])))


@torch.inference_mode()
def _in_transformers(entry: _Entry, images: list[Image.Image]) -> Vectors:
    with _quiet_transformers():
        from transformers import AutoImageProcessor, AutoModel

        model = AutoModel.from_pretrained(entry.folder, local_files_only=True, use_safetensors=True).eval()
        processor = AutoImageProcessor.from_pretrained(entry.folder, local_files_only=True)
        return _unit(model(**processor(images, return_tensors="pt")).pooler_output.float())


def _in_sentence_transformers(entry: _Entry, images: list[Image.Image]) -> Vectors:
    if int(importlib.metadata.version("sentence-transformers").split(".")[0]) < 6:  # it runs code of local folders
        raise ClzooError('version 6 or later is needed. Type: pip install --upgrade "clzoo[interop]"')
    with _quiet_transformers():
        from sentence_transformers import SentenceTransformer

        kwargs = {"use_safetensors": True}
        model = SentenceTransformer(str(entry.folder), device="cpu", model_kwargs=kwargs, local_files_only=True)
        return np.asarray(model.encode(images, show_progress_bar=False), np.float32)


def _in_onnx_runtime(entry: _Entry, images: list[Image.Image]) -> Vectors:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(entry.graph()), providers=["CPUExecutionProvider"])
    metadata = session.get_modelmeta().custom_metadata_map
    if Provenance.from_metadata(metadata, str(entry.graph())).preprocess:
        feeds = [{IMAGES: np.asarray(image)[None]} for image in images]
    else:
        feeds = [{PIXELS: entry.encoder.transform(image).numpy()[None]} for image in images]
    return _unit(np.concatenate([session.run([FEATURE], feed)[0] for feed in feeds]))


def _in_lite(entry: _Entry, images: list[Image.Image]) -> Vectors:
    vectors: Vectors = LiteEncoder(entry.graph()).embed(images)
    return vectors


@contextmanager
def _quiet_transformers() -> Iterator[None]:
    """Errors only, and no progress bars."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


LIBRARIES = {
    library.name: library
    for library in (
        _Library("timm", _in_timm, ("timm",), builds_through_timm=True),
        _Library("transformers", _in_transformers, ("transformers", "timm"), builds_through_timm=True),
        _Library(
            "sentence-transformers",
            _in_sentence_transformers,
            ("sentence-transformers", "transformers", "timm"),
            builds_through_timm=True,
        ),
        _Library("onnx", _in_onnx_runtime, ("onnxruntime",), exports=True),
        _Library("lite", _in_lite, ("onnxruntime",), exports=True),
    )
}
"""By the name that `clzoo verify --in` takes."""
