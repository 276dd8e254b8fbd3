"""`python -m clzoo.lite`: embed a folder and search it, with onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.data.listing import Item, item_ids, label_of
from clzoo.data.sources import list_images
from clzoo.errors import ClzooError
from clzoo.graphs.session import DEVICES
from clzoo.lite.loading import load
from clzoo.lite.vectors import Vectors, open_vectors
from clzoo.wording import plain


class _Content:
    """An item of a listing as a file object that is read when its turn comes."""

    def __init__(self, item: Item) -> None:
        self.read = item.read

    def seekable(self) -> bool:
        return False


def main(arguments: list[str] | None = None) -> int:
    """Returns the exit code: 0 done, 1 an error of input or data, 130 interrupted; argparse exits with 2."""
    try:
        given = _parser().parse_args(arguments)
        given.run(given)
    except ClzooError as error:
        sys.stderr.write(f"error: {error}\n")  # plain by itself, with lines of details
        return 1
    except ModuleNotFoundError as error:  # a source of another kind than images and .tar
        sys.stderr.write(f"error: this needs {error.name}, which is not installed. Type: pip install {error.name}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m clzoo.lite", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    model = {"metavar": "FILE", "help": "What clzoo.lite.load takes: an .onnx file that clzoo export wrote."}
    device = {"default": "cpu", "choices": DEVICES, "help": "Where the model runs."}

    embed = commands.add_parser("embed", help="Write the vectors of the images of a folder into one .npz file.")
    embed.add_argument("source", metavar="SRC", help="A folder, a text file of paths, or a .tar shard.")
    embed.add_argument("--model", required=True, **model)
    embed.add_argument("--out", required=True, type=Path, metavar="FILE.npz")
    embed.add_argument("--labels", action="store_true", help="Keep the first sub-folder as the label.")
    embed.add_argument("--device", **device)  # type: ignore[arg-type]
    embed.set_defaults(run=_embed)

    search = commands.add_parser("search", help="Find the images nearest to each query, exactly.")
    search.add_argument("vectors", metavar="FILE.npz", help="Or the folder of a store, if pyarrow is installed.")
    search.add_argument("queries", metavar="QUERY", nargs="+", help="An image; or the path or id of one in the file.")
    search.add_argument("--model", **model)  # type: ignore[arg-type]
    search.add_argument("-k", type=int, default=10, help="Neighbors per query; 10 if not said.")
    search.add_argument("--json", action="store_true", help="Print JSON.")
    search.add_argument("--device", **device)  # type: ignore[arg-type]
    search.set_defaults(run=_search)
    return parser


def _embed(given: argparse.Namespace) -> None:
    encoder = load(given.model, given.device)
    listing = list_images(given.source)
    failures = [(failure.path, failure.reason) for failure in listing.failures]
    items = listing.items
    contents: list[Any] = [_Content(item) for item in items]
    vectors, skipped = encoder.embed(contents, on_error="skip") if items else (np.empty(0), [])
    out = {each.position for each in skipped}
    failures += [(items[each.position].path, each.reason) for each in skipped]
    for path, reason in failures:
        sys.stderr.write(plain(f"warning: {path}: {reason}") + "\n")
    paths = [item.path for position, item in enumerate(items) if position not in out]
    if not paths:
        raise ClzooError(f"none of the {len(failures)} images of {given.source} could be embedded.")
    labels = [label_of(path) if given.labels else None for path in paths]
    said = encoder.provenance.model, encoder.provenance.weights_sha256
    Vectors(paths, labels, item_ids(paths), vectors, *said).save(given.out)
    _say(f"{given.out}: {len(paths)} vectors of {said[0]}, {len(failures)} failed")


def _search(given: argparse.Namespace) -> None:
    vectors = open_vectors(given.vectors)
    rows = {query: vectors.row(query) for query in given.queries}
    unknown = [query for query, row in rows.items() if row is None]
    found = {query: vectors.embeddings[row] for query, row in rows.items() if row is not None}
    if unknown:
        if given.model is None:
            raise ClzooError(f"{unknown[0]} is not in {given.vectors}, so it must be embedded: add --model FILE.onnx")
        encoder = load(given.model, given.device)
        if vectors.weights_sha256 not in ("", encoder.provenance.weights_sha256):
            raise ClzooError(
                f"{given.vectors} was made by {vectors.model}, weights {vectors.weights_sha256[:24]}; {given.model} is "
                f"of {encoder.provenance.model}, weights {encoder.provenance.weights_sha256[:24]}. Use the model that "
                "made it."
            )
        found |= dict(zip(unknown, encoder.embed([Path(query) for query in unknown]), strict=True))
    results = {query: vectors.search(found[query], given.k)[0] for query in given.queries}
    if given.json:
        found_hits = {query: [each._asdict() for each in hits] for query, hits in results.items()}
        sys.stdout.write(json.dumps(found_hits, indent=2) + "\n")  # ASCII, so nothing in it steers a terminal
        return
    for query, hits in results.items():
        _say(query)
        for hit in hits:
            _say(f"  {hit.score:.4f}  {hit.path}{f'  {hit.label}' if hit.label else ''}")


def _say(line: str) -> None:
    """One line; names of others that would steer a terminal are spelt out."""
    sys.stdout.write(plain(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
