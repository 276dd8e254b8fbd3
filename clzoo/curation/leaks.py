"""Test images that are in the train set: the pairs, and a certificate that `clzoo evaluate --leaks` takes."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from clzoo.certificate import hash_of_set, sealed
from clzoo.curation.calibration import FALSE_FLAGS, Calibration, calibrate, check_settings, in_words
from clzoo.curation.duplicates import BYTES, NEAR, SAME, hashes_of
from clzoo.curation.duplicates import PIXELS as SAME_PIXELS
from clzoo.curation.page import Section, Tile, kinds_table, write_page
from clzoo.curation.pairs import unit_vectors
from clzoo.curation.pictures import Pictures, changed_rows, embed_again, gone_rows, on_disk
from clzoo.embed.checks import require_images
from clzoo.embed.store import Store, open_store
from clzoo.errors import ClzooError
from clzoo.files import as_json, output_path
from clzoo.wording import clzoo_command

if TYPE_CHECKING:
    from clzoo.encoder import Encoder


@dataclass(frozen=True)
class Leak:
    """A test image, and the train image that is most like it.

    `kind` is "byte-identical", "pixel-identical" or "near-duplicate"; `others` counts further train images beyond the
    threshold.
    """

    test: int
    train: int
    kind: str
    similarity: float
    others: int


@dataclass(frozen=True)
class Leaks:
    """What `find_leaks` found.

    Attributes:
        leaks: one for each leaked test image, in row order.
        hashes: SHA-256 of the files by row, of the train and of the test store; what cannot be read has none.
    """

    train: Store
    test: Store
    calibration: Calibration
    leaks: list[Leak]
    hashes: tuple[dict[int, str], dict[int, str]]

    @property
    def unread(self) -> int:
        """Pictures that could not be read to be compared by hash."""
        return len(self.train) + len(self.test) - sum(map(len, self.hashes))

    def summary(self) -> list[str]:
        """What was found, a sentence each."""
        counts = {kind: sum(leak.kind == kind for leak in self.leaks) for kind in (BYTES, SAME_PIXELS, NEAR)}
        lines = [
            f"{len(self.leaks)} of {len(self.test):,} test images ({len(self.leaks) / len(self.test):.2%}) are among "
            f"the {len(self.train):,} train images: {', '.join(f'{n} {kind}' for kind, n in counts.items())}.",
            *in_words(self.calibration),
        ]
        if self.unread:
            lines.append(f"{self.unread} pictures could not be read: identical files among them are not named.")
        return lines

    def as_json(self) -> dict[str, Any]:
        """The certificate: what was compared, how, and all leaks, with a hash of the content itself."""
        train, test = self.train.paths, self.test.paths
        content = {
            "model": self.test.manifest.model,
            "weights_sha256": self.test.manifest.weights_sha256,
            "train": _identity(self.train, self.hashes[0]),
            "test": _identity(self.test, self.hashes[1]),
            "threshold": self.calibration.threshold,
            "calibration": self.calibration.as_json(),
            "unread": self.unread,
            "leaks": [
                {
                    "test": test[leak.test],
                    "test_sha256": self.hashes[1].get(leak.test),
                    "train": train[leak.train],
                    "kind": leak.kind,
                    "similarity": round(leak.similarity, 5),
                    "others": leak.others,
                }
                for leak in self.leaks
            ],
        }
        return sealed(content)

    def save(self, path: str | Path) -> Path:
        """Write the certificate."""
        with output_path(Path(path)) as temporary:
            temporary.write_text(as_json(self.as_json()), encoding="utf-8")
        return Path(path)

    def write_page(self, path: str | Path) -> Path:
        """Write the leaks as a page of pictures; returns its path."""
        sections = [
            Section(
                f"{leak.kind}, {leak.similarity:.4f}",
                [Tile(self.test, leak.test, "test", "bad"), Tile(self.train, leak.train, "train")],
            )
            for leak in sorted(self.leaks, key=lambda leak: -leak.similarity)
        ]
        return write_page(
            path,
            title=f"Images of {self.test.path.name} that are in {self.train.path.name}",
            facts=[f"{len(self.train):,} train images", f"{len(self.test):,} test images", self.test.manifest.model],
            notes=self.summary(),
            tables=[kinds_table(self.calibration)],
            sections=sections,
        )


def find_leaks(
    train: Store | str | Path,
    test: Store | str | Path,
    *,
    false_flags: float = FALSE_FLAGS,
    threshold: float | None = None,
    encoder: Encoder | str | Path | None = None,
) -> Leaks:
    """Find the test images that are in the train set too: the same file, the same pixels, or copies.

    Args:
        train, test: stores of the same encoder, open or their folders.
        false_flags, threshold, encoder: as in `find_duplicates`; copies of train images are planted.

    Raises:
        ClzooError: stores of different encoders, an empty one, vectors not finite, pictures that are not there.
    """
    check_settings(false_flags, threshold)
    train, test = (each if isinstance(each, Store) else open_store(each) for each in (train, test))
    check_same_encoder(train, test)
    for store in (train, test):  # a certificate would name the new files beside vectors of the old ones
        files = on_disk(store)
        for rows, what in ((changed_rows(store, files), "others than"), (gone_rows(store, files), "no longer among")):
            if len(rows):
                raise ClzooError(
                    f"{len(rows)} files of {store.path} are {what} those that were embedded, the first is "
                    f"{store.paths[rows[0]]}. {embed_again(store)}"
                )
    pictures, tested = Pictures(train, "--train-images"), Pictures(test, "--test-images")
    bank, queries = unit_vectors(train), unit_vectors(test)
    calibration, pairs = calibrate(
        pictures, bank, np.arange(len(bank)), false_flags, threshold, encoder, queries=queries
    )
    hashes = tuple(hashes_of(each, np.arange(len(each.store))) for each in (pictures, tested))
    if not hashes[1]:  # a certificate knows the test images by them
        raise tested.missing()
    best = {row: Leak(row, other, BYTES, 1.0, 0) for row, other in _same_files(*hashes).items()}
    order = np.lexsort((pairs.second, -pairs.similarity, pairs.first))
    for part in np.split(order, np.flatnonzero(np.diff(pairs.first[order])) + 1) if len(pairs) else ():
        row, other = int(pairs.first[part[0]]), int(pairs.second[part[0]])
        similarity = float(pairs.similarity[part[0]])
        if row in best:
            best[row] = Leak(row, best[row].train, BYTES, 1.0, len(part) - 1)
            continue
        ours = tested.pixels_sha256(row) if similarity >= SAME else None
        kind = SAME_PIXELS if ours is not None and ours == pictures.pixels_sha256(other) else NEAR
        best[row] = Leak(row, other, kind, similarity, len(part) - 1)
    return Leaks(train, test, calibration, [best[row] for row in sorted(best)], (hashes[0], hashes[1]))


def check_same_encoder(*stores: Store) -> None:
    """Raise ClzooError where one is empty, or two are not of the same weights and preprocessing."""
    for store in stores:
        require_images(store)
    first, *others = (store.manifest for store in stores)
    for store, manifest in zip(stores[1:], others, strict=True):
        if (manifest.weights_sha256, manifest.preprocessing) != (first.weights_sha256, first.preprocessing):
            raise ClzooError(
                f"{stores[0].path} is of {first.model} ({first.weights_sha256[:12]}) and {store.path} of "
                f"{manifest.model} ({manifest.weights_sha256[:12]}), or of another preprocessing: their vectors cannot "
                "be compared. Embed both alike: "
                f"{clzoo_command('embed', 'IMAGES', '--model', first.load, '--out', f'{store.path}-same')}"
            )


def _same_files(train: dict[int, str], test: dict[int, str]) -> dict[int, int]:
    """Of each test image whose bytes are a train image's: the first such image. Both are hashes by row."""
    rows: dict[str, int] = {}
    for row, sha256 in train.items():
        rows.setdefault(sha256, row)
    return {row: rows[sha256] for row, sha256 in test.items() if sha256 in rows}


def _identity(store: Store, hashes: dict[int, str]) -> dict[str, Any]:
    """What a certificate says of a store: where it lies, its generation, and hashes of its vectors and its files."""
    return {
        "store": str(store.path.resolve()),
        "source": store.manifest.root,
        "generation": store.generation,
        "images": len(store),
        "sha256": content_sha256(store),
        "files_sha256": hash_of_set(hashes.values()),
    }


def content_sha256(store: Store) -> str:
    """SHA-256 of the paths and vectors of a store, by which a certificate knows it."""
    digest = hashlib.sha256("\0".join(store.paths).encode(errors="surrogateescape"))
    for _, vectors in store.batches():
        digest.update(np.ascontiguousarray(vectors, "<f4").tobytes())
    return digest.hexdigest()
