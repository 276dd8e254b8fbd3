"""manifest.json: the one file that says what an embedding store holds. Format and guarantees: docs/store.md."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import clzoo
from clzoo.data.held import A_LIST, HELD
from clzoo.embed.shares import folder_of_whole
from clzoo.errors import ClzooError
from clzoo.files import read_json, write_json
from clzoo.images import DECODING
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.encoder import Encoder

SCHEMA = 1
"""Version of the format; a reader refuses a higher one."""

MANIFEST = "manifest.json"

STORE_DTYPES = {"fp16": "float16", "fp32": "float32"}
"""What `--store-dtype` says, and numpy's name for it, which the manifest records."""


def is_store(folder: str | Path) -> bool:
    """Whether a folder is an embedding store, or a damaged one; a manifest.json of something else makes none."""
    path = Path(folder) / MANIFEST
    if not path.is_file():
        return False
    try:
        raw = read_json(path)
    except ClzooError:
        return True  # opening it says what is damaged
    return isinstance(raw, dict) and raw.get("format") == "clzoo-store"


@dataclass(frozen=True)
class Segment:
    """Two immutable files: vectors, and the items that own them."""

    embeddings: str  # embeddings-<generation>.npy
    items: str  # items-<generation>.parquet; its column `row` points into the vectors
    rows: int  # of the items file: the vectors that count


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`: one generation of a store."""

    generation: int  # grows by at least one with every swap
    complete: bool  # False while a run is under way, or after it was cut off
    root: str  # absolute folder that the items' paths start from
    model: str  # zoo name
    load: str  # what `clzoo.load` takes to get the model again: the name, or an absolute path
    weights_sha256: str
    preprocessing: dict[str, Any]
    dim: int
    dtype: str  # of the vectors on disk: "float16" or "float32"
    normalized: bool  # whether each vector was divided by its L2 norm
    labels: bool  # whether the first sub-folder is kept as the label
    compute: tuple[str, ...]  # compute types that rows came from, e.g. ("fp32",)
    rows: int
    errors: int  # rows of errors.parquet
    errors_generation: int  # stamp of the errors.parquet that belongs to this generation
    segments: tuple[Segment, ...]
    source: str = ""  # absolute path of what was embedded: a folder, a text file or a shard
    shard: tuple[int, int] | None = None  # (number from 1, count): the share of the source that this store holds
    merged: bool | None = None  # of shares, and as the merge left it; False: continued since; None: never merged
    license: str = "not stated"  # of the model, whose terms concern what learns from the vectors
    license_note: str = ""
    network: dict[str, Any] | None = None  # what it is built from; None: not recorded, in older stores

    def save(self, folder: Path) -> None:
        """Swap `folder/manifest.json` for this one: synced, then renamed into place."""
        raw = {"format": "clzoo-store", "schema": SCHEMA, "clzoo": clzoo.__version__, **dataclasses.asdict(self)}
        write_json(folder / MANIFEST, raw)

    @classmethod
    def load_from(cls, folder: Path) -> Manifest:
        """Read `folder/manifest.json`.

        Raises:
            ClzooError: the folder is no store, or one of a newer clzoo.
        """
        path = folder / MANIFEST
        if not path.is_file():
            raise ClzooError(
                f"{folder} is not an embedding store: it has no {MANIFEST}. Make one: "
                f"{clzoo_command('embed', 'IMAGES', '--out', folder)}"
            )
        raw = read_json(path)
        if not isinstance(raw, dict) or raw.get("format") != "clzoo-store":
            raise ClzooError(
                f"{path} is not the manifest of an embedding store. Name the folder that clzoo embed made."
            )
        if not isinstance(raw.get("schema"), int) or raw["schema"] > SCHEMA:
            raise ClzooError(
                f"{path}: schema is {raw.get('schema')!r}, this clzoo reads up to {SCHEMA}. "
                "Type: pip install --upgrade clzoo"
            )
        known = {field.name for field in dataclasses.fields(cls)}
        try:
            values = {key: value for key, value in raw.items() if key in known}
            segments = tuple(Segment(**segment) for segment in raw["segments"])
            shard = tuple(raw["shard"]) if raw.get("shard") else None
            return cls(**{**values, "segments": segments, "compute": tuple(raw["compute"]), "shard": shard})
        except (KeyError, TypeError) as error:
            raise ClzooError(f"{path} is damaged: {error}. Delete {folder} and embed again.") from error

    def command(self, out: Path, *options: str) -> str:
        """What to type to embed the source into a store of this kind: every option that has to be as it was."""
        if self.source.startswith((*HELD, A_LIST)):
            said = {"out": str(out), "size": self.preprocessing["size"], "normalize": self.normalized}
            said |= {"labels": self.labels or "--labels" in options}
            said |= {"store_dtype": next(name for name, stored in STORE_DTYPES.items() if stored == self.dtype)}
            return f"clzoo.embed_folder(IMAGES, {self.load!r}, {', '.join(f'{k}={v!r}' for k, v in said.items())})"
        if self.shard is not None and "--share" not in options:
            number, count = self.shard
            out, options = folder_of_whole(out), (*options, "--share", f"{number}/{count}")
        words = ["embed", self.source or self.root, "--model", self.load]
        words += ["--size", str(self.preprocessing["size"]), "--out", str(out)]
        words += [] if self.normalized else ["--no-normalize"]
        words += ["--store-dtype", "fp32"] if self.dtype == STORE_DTYPES["fp32"] else []
        words += ["--labels"] if self.labels and "--labels" not in options else []
        return clzoo_command(*words, *options)

    def check_model(self, encoder: Encoder, folder: Path, *, adding: bool = False) -> None:
        """Refuse an encoder whose vectors cannot be compared with the stored ones.

        Args:
            adding: whether its vectors are to stand beside the stored ones. Then the decoder's rules count too; a
                search by them finds the same, but for the few images that they treat otherwise.

        Raises:
            ClzooError: other weights, another network or preprocessing; or vectors of another length.
        """
        network = encoder.config.network  # `num_heads` changes no tensor
        ours = {"weights": self.weights_sha256, "decoding": 1, **self.preprocessing, **(self.network or network)}
        theirs = {"weights": encoder.weights_sha256, **preprocessing_of(encoder), **network}
        different = [key for key in ours if ours[key] != theirs.get(key) and (adding or key != "decoding")]
        if different == ["decoding"]:
            raise ClzooError(
                f"{folder} was embedded by version {ours['decoding']} of the decoder's rules, this is version "
                f"{theirs['decoding']}: some kinds of images have other vectors now (docs/store.md). To embed "
                f"anew, delete {folder} or give another --out."
            )
        if different:
            size = f" --size {self.preprocessing['size']}" if "size" in different else ""
            raise ClzooError(
                f"{folder} was made by {self.model} ({_show(ours, different)}); this is "
                f"{encoder.config.name} ({_show(theirs, different)}). Use the model that made it, "
                f"--model {self.load}{size}; or give another --out to embed anew."
            )
        if self.dim != encoder.dim:
            raise ClzooError(
                f"{folder} holds vectors of {self.dim} values, and {encoder.config.name} gives {encoder.dim}: its rows "
                f"are not whole features. Delete {folder} and embed again."
            )


def preprocessing_of(encoder: Encoder) -> dict[str, Any]:
    """The encoder's preprocessing as it stands in a manifest, with the version of the decoder's rules."""
    return {**encoder.config.preprocessing.to_json(), "decoding": DECODING}


def _show(values: dict[str, Any], keys: list[str]) -> str:
    return ", ".join(f"{key} {str(values.get(key))[: 24 if key == 'weights' else 200]}" for key in keys)
