"""What an exported graph says of itself: the entries `clzoo.*` of its metadata, and the names of its ends."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from clzoo.config import ModelConfig, Preprocessing
from clzoo.errors import ClzooError
from clzoo.files import parse_json
from clzoo.wording import clzoo_command

GRAPH = "model.onnx"
"""Name of the graph in a hub entry."""

SCHEMA = 1
"""Version of these entries; a reader refuses a higher one."""

IMAGES, PIXELS = "images", "pixels"
"""The input of a graph with the preprocessing inside, uint8 (B, H, W, 3); and without, float32 (B, 3, size, size)."""

EMBEDDING, FEATURE = "embedding", "feature"
"""The outputs, float32 (B, dim): divided by the L2 norm, and as the network gives it."""

PROBABILITIES, CLASSES = "probabilities", "clzoo.classes"
"""The output of a classifier behind the embedding (`clzoo curate classify --onnx`), float32 (B, C); and the entry of
the metadata with the names of the classes, a JSON list."""

_PREFIX = "clzoo."
_NEWER = ("tensors_sha256", "license_note", "derived_from")  # than the first graphs, which lack them
_NORMALIZATION = f"{EMBEDDING}: L2; {FEATURE}: none"


@dataclass(frozen=True)
class Provenance:
    """Where a graph comes from and how it is used."""

    model: str
    architecture: str
    dim: int
    weights_sha256: str  # clzoo.proof: as the model's entry records it, whose file may hold them in fp16
    license: str
    preprocessing: Preprocessing
    preprocess: bool  # whether the preprocessing is inside
    dtype: str  # of the arithmetic: fp32, fp16 or int8
    opset: int
    version: str  # of the clzoo that exported it
    calibration: str = ""  # int8: what the ranges were measured on
    tensors_sha256: str = ""  # of the weights as they were loaded, which stores record; "" in files of before
    license_note: str = ""
    derived_from: str = ""  # as in the model's config

    @property
    def store_sha256(self) -> str:
        """The hash that a store of this encoder's vectors records."""
        return self.tensors_sha256 or self.weights_sha256

    def to_metadata(self) -> dict[str, str]:
        """Entries for `metadata_props`: all values are text, `clzoo.preprocessing` is JSON."""
        values = {
            **dataclasses.asdict(self),
            "schema": SCHEMA,
            "preprocess": "inside" if self.preprocess else "outside",
            "preprocessing": json.dumps(self.preprocessing.to_json()),
            "normalization": _NORMALIZATION,
        }
        return {f"{_PREFIX}{name}": str(value) for name, value in values.items()}

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, str], where: str) -> Provenance:
        """Read the entries; `where` is named in errors.

        Raises:
            ClzooError: the graph was not exported by clzoo, by a newer one, or its entries are damaged.
        """
        values: dict[str, Any] = {
            name.removeprefix(_PREFIX): value for name, value in metadata.items() if name.startswith(_PREFIX)
        }
        if not values:
            raise ClzooError(
                f"{where} was not exported by clzoo: its metadata has no entries {_PREFIX}*. "
                "Type: clzoo export NAME --to onnx --out FILE"
            )
        try:
            if int(values["schema"]) > SCHEMA:
                raise ClzooError(
                    f"{where}: clzoo.schema is {values['schema']}, this clzoo reads up to {SCHEMA}. "
                    "Type: pip install --upgrade clzoo"
                )
            raw = parse_json(
                values["preprocessing"],
                f"{where}: its clzoo metadata is damaged: clzoo.preprocessing",
                "Export it anew.",
            )
            values |= {
                "preprocessing": Preprocessing(**{**raw, "mean": tuple(raw["mean"]), "std": tuple(raw["std"])}),
                "preprocess": {"inside": True, "outside": False}[values["preprocess"]],
                "dim": int(values["dim"]),
                "opset": int(values["opset"]),
            }
            fields = [f for f in dataclasses.fields(cls) if f.name in values or f.name not in _NEWER]
            return cls(**{field.name: values[field.name] for field in fields})
        except (KeyError, TypeError, ValueError) as error:
            raise ClzooError(
                f"{where}: its clzoo metadata is damaged ({type(error).__name__}: {error}). Export it anew."
            ) from error


def require_same_model(exported: Provenance, config: ModelConfig, graph: Path) -> None:
    """Compare what a graph records with its entry.

    Raises:
        ClzooError: the graph was exported from other weights than the entry holds, or with another preprocessing.
    """
    again = f"Type: {clzoo_command('export', graph.parent, '--to', 'onnx', '--out', graph)}"
    if config.weights_sha256 not in (None, exported.weights_sha256):
        raise ClzooError(
            f"{graph} was exported from weights {exported.weights_sha256}, the entry's config.json records "
            f"{config.weights_sha256}. {again}"
        )
    if exported.preprocessing != config.preprocessing:
        raise ClzooError(
            f"{graph} was exported for {exported.preprocessing}, the entry's config.json says {config.preprocessing}. "
            f"{again}"
        )
