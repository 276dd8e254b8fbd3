"""A classifier from a few labels: fitted to the labelled rows of a store, it names the others, or another store's."""

from __future__ import annotations

import csv
import io
import re
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from clzoo.curation.folds import FOLDS, Labelled, out_of_fold
from clzoo.curation.page import MOST_PICTURES, Section, Tile, write_page
from clzoo.curation.pairs import unit_vectors
from clzoo.embed.checks import require_images
from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.linear import PENALTIES, Standardization, fit_softmax, linear_scores
from clzoo.files import output_path
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.curation.naming import SourceImages

SURE = 0.5
"""Confidence below which an image is called unsure."""

_TEMPERATURES = np.geomspace(0.2, 5, 60)
_DAMAGES = (OSError, ValueError, TypeError, KeyError, AttributeError, EOFError)  # what NumPy raises at other files
_ARRAYS = ("weight", "bias", "mean", "scale", "temperature", "classes", "weights_sha256", "preprocessing")


@dataclass(frozen=True)
class Classifier:
    """A linear classifier on the unit vectors of one encoder.

    Attributes:
        weight, bias: float32 (C, D) and (C,).
        mean, scale: float32 (D,), of the labelled vectors; taken off and multiplied first.
        temperature: what scores are divided by before the softmax, so that confidence is calibrated out of fold.
        classes: C names.
        weights_sha256, preprocessing: of the encoder, which other stores must have been made by.
        model: what `clzoo.load` takes of it; "" in files of an earlier version.
    """

    weight: np.ndarray
    bias: np.ndarray
    mean: np.ndarray
    scale: np.ndarray
    temperature: float
    classes: tuple[str, ...]
    weights_sha256: str
    preprocessing: str
    model: str = ""

    @property
    def size(self) -> int | None:
        """Side of the encoder's input in pixels."""
        found = re.search(r"(?:^|, )size=(\d+)", self.preprocessing)
        return int(found[1]) if found else None

    def probabilities(self, vectors: np.ndarray) -> np.ndarray:
        """Calibrated, float64 (N, C), of unit vectors (N, D)."""
        scores = ((vectors - self.mean) * self.scale) @ self.weight.T + self.bias
        return _softmax(scores.astype(np.float64) / self.temperature)

    def save(self, path: str | Path) -> Path:
        """Write one .npz file, of plain arrays."""
        path = Path(path)
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in (*_ARRAYS, "model")}
        with output_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays)
        return path

    @classmethod
    def load(cls, path: str | Path) -> Classifier:
        """What `save` wrote, or (a file that ends in .onnx) `clzoo.curation.onnx_head.export_classifier`.

        Raises:
            ClzooError: no such file, or another one.
        """
        if str(path).lower().endswith(".onnx"):
            from clzoo.curation.onnx_head import read_classifier

            return read_classifier(path)
        again = f"Make one: {clzoo_command('curate', 'classify', 'STORE', '--save', path)}"
        if not Path(path).exists():
            raise ClzooError(f"{path} does not exist. {again}")
        try:
            with np.load(Path(path), allow_pickle=False) as found:
                arrays = {name: found[name] for name in _ARRAYS}
                model = str(found["model"]) if "model" in found.files else ""
            parts = str(arrays["preprocessing"]).split(", ")  # how images are decoded stood in it at first
            return cls(
                weight=arrays["weight"].astype(np.float32),
                bias=arrays["bias"].astype(np.float32),
                mean=arrays["mean"].astype(np.float32),
                scale=arrays["scale"].astype(np.float32),
                temperature=float(arrays["temperature"].item()),
                classes=tuple(arrays["classes"].astype(np.str_).tolist()),
                weights_sha256=str(arrays["weights_sha256"]),
                preprocessing=", ".join(part for part in parts if not part.startswith("decoding=")),
                model=model,
            ).checked()
        except (*_DAMAGES, zipfile.BadZipFile, zlib.error) as error:
            raise ClzooError(f"{path} is no classifier ({error}). {again}") from error

    def checked(self) -> Classifier:
        """Itself.

        Raises:
            ValueError: arrays that do not fit each other or are not finite, a temperature that is none, no classes, or
                names that are not each one's own or cannot be written as UTF-8.
        """
        count, dim = len(self.classes), self.mean.size
        shapes = [each.shape for each in (self.weight, self.bias, self.mean, self.scale)]
        if not count or shapes != [(count, dim), (count,), (dim,), (dim,)]:
            raise ValueError(f"arrays of the shapes {shapes}, {count} classes")
        if not all(np.isfinite(each).all() for each in (self.weight, self.bias, self.mean, self.scale)):
            raise ValueError("arrays that are not finite")
        if not 0 < self.temperature < np.inf:
            raise ValueError(f"a temperature of {self.temperature}")
        if len(set(self.classes)) != count:
            raise ValueError("two classes of one name")
        "".join(self.classes).encode("utf-8")  # UnicodeEncodeError is a ValueError
        return self


@dataclass(frozen=True)
class Classified:
    """What `classify` named.

    Attributes:
        images: the store; or of what `clzoo.curation.naming` named, the source.
        rows: the images without a label (of another store or a source all that can be read), M.
        labels, confidence: what each is called, and how surely, 0 to 1.
        accuracy: of the labelled images out of fold, percent, by "linear" and "knn"; empty where it cannot be measured.
        labelled: how many images were fitted to.
    """

    images: Store | SourceImages
    classifier: Classifier
    rows: list[int]
    labels: list[str]
    confidence: list[float]
    accuracy: dict[str, float]
    labelled: int
    sure: float

    @classmethod
    def of(
        cls,
        images: Store | SourceImages,
        classifier: Classifier,
        rows: list[int],
        probabilities: np.ndarray,
        *,
        accuracy: Mapping[str, float] | None = None,
        labelled: int = 0,
        sure: float,
    ) -> Classified:
        """From the probabilities (M, C) of the rows: the best of each."""
        names = [classifier.classes[place] for place in probabilities.argmax(axis=1).tolist()]
        confidence = probabilities.max(axis=1).tolist()
        return cls(images, classifier, rows, names, confidence, dict(accuracy or {}), labelled, sure)

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Path and reason of the images of a source that could not be read; of a store none."""
        return [] if isinstance(self.images, Store) else self.images.failed

    @property
    def unsure(self) -> int:
        """How many confidences lie below `sure`."""
        return sum(value < self.sure for value in self.confidence)

    def summary(self) -> list[str]:
        """What was found, a sentence each."""
        measured = ", ".join(f"{name} {value:.2f} %" for name, value in self.accuracy.items())
        share = self.unsure / len(self.rows) if self.rows else 0.0
        return [
            f"{len(self.rows):,} images named, in {len(self.classifier.classes)} classes; {self.unsure:,} "
            f"({share:.1%}) with a confidence below {self.sure:g}.",
            *([f"Fitted to {self.labelled:,} labelled images."] if self.labelled else []),
            *([f"Accuracy out of {FOLDS} folds: {measured}. Confidence is calibrated on it."] if measured else []),
            *(
                ["Not every class has two labels: accuracy cannot be measured and confidence is not calibrated."]
                if self.labelled and not measured
                else []
            ),
            *(
                [f"{len(self.failed):,} could not be read ({': '.join(self.failed[0])}); --json lists all."]
                if self.failed
                else []
            ),
        ]

    def as_json(self) -> dict[str, Any]:
        """What `clzoo curate classify --json` prints."""
        paths = self.images.paths
        named = zip(self.rows, self.labels, self.confidence, strict=True)
        told: dict[str, Any]
        if isinstance(self.images, Store):
            told = {"store": str(self.images.path), "generation": self.images.generation}
        else:
            failed = [{"path": path, "reason": reason} for path, reason in self.failed]
            told = {"source": self.images.origin, "failed": failed}
        return {
            **told,
            "weights_sha256": self.classifier.weights_sha256,
            "classes": list(self.classifier.classes),
            "labelled": self.labelled,
            "accuracy": {name: round(value, 4) for name, value in self.accuracy.items()},
            "unsure": self.unsure,
            "images": [
                {"path": paths[row], "label": label, "confidence": round(value, 5), "sure": value >= self.sure}
                for row, label, value in named
            ],
        }

    def write_csv(self, path: str | Path) -> Path:
        """Write path,label,confidence of each image, and whether it is sure."""
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "label", "confidence", "sure"))
        for row, label, value in zip(self.rows, self.labels, self.confidence, strict=True):
            writer.writerow((self.images.paths[row], label, f"{value:.5f}", "yes" if value >= self.sure else "no"))
        with output_path(Path(path)) as temporary:
            temporary.write_bytes(text.getvalue().encode("utf-8", "surrogateescape"))  # names are bytes on disk
        return Path(path)

    def write_page(self, path: str | Path) -> Path:
        """Write the named images by class, the least sure first, as a page of pictures; returns its path."""
        place = str(self.images.path) if isinstance(self.images, Store) else self.images.origin
        by_class: dict[str, list[tuple[float, int]]] = {}
        for row, label, value in zip(self.rows, self.labels, self.confidence, strict=True):
            by_class.setdefault(label, []).append((value, row))
        most = max(1, MOST_PICTURES // max(1, len(by_class)))
        sections = [
            Section(
                f"{label}: {len(found):,}" + (f", of which {most:,} are shown" if len(found) > most else ""),
                [
                    Tile(self.images, row, f"{value:.2f}", "" if value >= self.sure else "bad")
                    for value, row in sorted(found)[:most]
                ],
            )
            for label, found in sorted(by_class.items())
        ]
        return write_page(
            path,
            title=f"Classes of {PurePath(place).name}",
            facts=[f"{len(self.rows):,} images", self.classifier.model],
            notes=[*self.summary(), "The least sure of each class first."],
            sections=sections,
        )


def classify(
    store: Store | str | Path,
    labels: Sequence[str | None] | Classifier,
    *,
    sure: float = SURE,
) -> Classified:
    """Name the images of a store that have no label, by linear:v1 on those that have one. Nothing is changed.

    Args:
        store: open, or its folder.
        labels: of each row its label or None (`store.labels`, or `clzoo.curation.given_labels.read_labels`); or a
            classifier that was fitted before, by which all are named.
        sure: the confidence from which a name is called sure.

    Raises:
        ClzooError: fewer than two classes, a classifier of another encoder, vectors that are not finite, a confidence
            that is none.
    """
    if not 0 <= sure <= 1:
        raise ClzooError(f"sure is a confidence from 0 to 1, found {sure}.")
    store = store if isinstance(store, Store) else open_store(store)
    require_images(store)
    vectors = unit_vectors(store)
    accuracy: dict[str, float] = {}
    if isinstance(labels, Classifier):
        classifier, rows, count = labels, np.arange(len(store)), 0
        ours = store.manifest.weights_sha256, text_of(store.manifest.preprocessing)
        if (*ours, store.dim) != (classifier.weights_sha256, classifier.preprocessing, len(classifier.mean)):
            raise ClzooError(
                f"the classifier was fitted to features of the weights {classifier.weights_sha256[:12]}, {store.path} "
                f"is of {store.manifest.model} ({ours[0][:12]}), or of another preprocessing. Embed with that encoder."
            )
    else:
        ways = "give --labels FILE with lines path,label; or embed with --labels, then --by-folder."
        known = Labelled.of(labels, str(store.path), f"Label some of each: {ways}")
        classifier, accuracy = _fit(vectors[known.rows], known, store)
        rows, count = np.setdiff1d(np.arange(len(store)), known.rows), len(known.rows)
    found = classifier.probabilities(vectors[rows])
    return Classified.of(store, classifier, rows.tolist(), found, accuracy=accuracy, labelled=count, sure=sure)


def _fit(vectors: np.ndarray, known: Labelled, store: Store) -> tuple[Classifier, dict[str, float]]:
    """The classifier of the labelled vectors (M, D), and its accuracies out of fold."""
    labels, x = torch.from_numpy(known.labels), torch.from_numpy(vectors)
    counts = np.bincount(known.labels)
    accuracy, temperature, penalty = {}, 1.0, PENALTIES[0]
    if counts.min() > 1:
        train = Features(x, labels, known.classes, str(store.path), {})
        penalty = linear_scores(train, train, seed=0, loss="plain", device=torch.device("cpu")).penalty
        found = {method: out_of_fold(vectors, known, method) for method in ("linear", "knn")}
        accuracy = {method: 100 * float((p.argmax(axis=1) == known.labels).mean()) for method, p in found.items()}
        temperature = best_temperature(found["linear"], known.labels)
    standard = Standardization.of(x)
    fitted = fit_softmax(x, labels, len(known.classes), penalty=penalty, standardization=standard)
    arrays = (fitted.weight, fitted.bias, standard.mean, standard.scale)
    weight, bias, mean, scale = (each.float().numpy() for each in arrays)
    told = store.manifest
    encoder = told.weights_sha256, text_of(told.preprocessing), told.load
    return Classifier(weight, bias, mean, scale, temperature, known.classes, *encoder), accuracy


def best_temperature(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """What the log of probabilities (M, C) is divided by to make the labels most probable (Guo et al. 2017)."""
    logs = np.log(np.maximum(probabilities.astype(np.float64), 1e-12))
    own = np.arange(len(labels)), labels
    losses = [-np.log(np.maximum(_softmax(logs / t)[own], 1e-300)).mean() for t in _TEMPERATURES]
    return float(_TEMPERATURES[int(np.argmin(losses))])


def _softmax(scores: np.ndarray) -> np.ndarray:
    shifted: np.ndarray = np.exp(scores - scores.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def text_of(preprocessing: Mapping[str, Any]) -> str:
    """A preprocessing as one text, by which a classifier knows its encoder's; how images are decoded is not in it."""
    return ", ".join(f"{key}={value}" for key, value in sorted(preprocessing.items()) if key != "decoding")
