"""`python -m clzoo.lite`: embed a folder and search it, or classify it, with onnxruntime, numpy and Pillow alone."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from clzoo.data.listing import Item, item_ids, label_of_item
from clzoo.data.sources import list_images
from clzoo.errors import ClzooError
from clzoo.graphs.provenance import Provenance
from clzoo.graphs.session import DEVICES
from clzoo.images import MAX_PIXELS, set_max_pixels
from clzoo.lite.loading import load
from clzoo.lite.vectors import Vectors, open_vectors, require_place, write_whole
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
        if given.max_pixels is not None:
            set_max_pixels(given.max_pixels)
        given.run(given)
        sys.stdout.flush()
    except ClzooError as error:
        sys.stderr.write(f"error: {error}\n")  # plain by itself, with lines of details
        return 1
    except ModuleNotFoundError as error:  # a source of another kind than images and .tar
        sys.stderr.write(f"error: this needs {error.name}, which is not installed. Type: pip install {error.name}\n")
        return 1
    except BrokenPipeError:  # who reads the output has seen enough: `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else Python writes the rest at its end
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

    classify = commands.add_parser(
        "classify", help="Name the images of a folder by what clzoo curate classify --onnx wrote."
    )
    classify.add_argument("source", metavar="SRC", help="A folder, a text file of paths, or a .tar shard.")
    classify.add_argument("--model", required=True, metavar="FILE", help="The .onnx file of encoder and classifier.")
    classify.add_argument("--out", type=Path, metavar="FILE.csv", help="Write path,label,confidence,sure.")
    classify.add_argument("--sure", type=float, default=0.5, help="Less confidence is unsure; 0.5 if not said.")
    classify.add_argument("--device", **device)  # type: ignore[arg-type]
    classify.set_defaults(run=_classify)
    for command in (embed, search, classify):
        command.add_argument(
            "--max-pixels", type=int, metavar="N", help=f"Refuse images of more pixels; {MAX_PIXELS} if not said."
        )
    return parser


def _embed(given: argparse.Namespace) -> None:
    require_place(given.out)
    encoder = load(given.model, given.device)
    items, vectors, failed = _of_source(given.source, encoder.embed)
    paths = [item.path for item in items]
    labels = [label_of_item(item) if given.labels else None for item in items]
    told = encoder.provenance
    said = told.model, told.store_sha256, told.preprocessing.to_json()
    Vectors(paths, labels, item_ids(paths), vectors, *said).save(given.out)
    _say(f"{given.out}: {len(paths)} vectors of {told.model}, {failed} failed")


def _classify(given: argparse.Namespace) -> None:
    if not 0 <= given.sure <= 1:
        raise ClzooError(f"--sure is a confidence from 0 to 1, found {given.sure}.")
    if given.out is not None:
        require_place(given.out)
    encoder = load(given.model, given.device)
    items, found, failed = _of_source(given.source, encoder.probabilities)
    confidence = found.max(axis=1).tolist()
    named = [encoder.classes[place] for place in found.argmax(axis=1).tolist()]
    rows = list(zip((item.path for item in items), named, confidence, strict=True))
    if given.out is None:
        for path, label, value in rows:
            _say(f"{value:.4f}  {label}  {path}")
    else:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(("path", "label", "confidence", "sure"))
        writer.writerows((path, name, f"{p:.5f}", "yes" if p >= given.sure else "no") for path, name, p in rows)
        write_whole(given.out, lambda file: file.write(text.getvalue().encode("utf-8", "surrogateescape")))
    unsure = sum(value < given.sure for value in confidence)
    _say(
        f"{len(rows)} images named, in {len(encoder.classes)} classes; {unsure} with a confidence below "
        f"{given.sure:g}; {failed} failed"
    )


def _of_source(source: str, run: Callable[..., Any]) -> tuple[list[Item], np.ndarray, int]:
    """The images of a source that can be read, what `run` gives of them, and how many cannot, which are named."""
    listing = list_images(source)
    failures = [(failure.path, failure.reason) for failure in listing.failures]
    items = listing.items
    contents: list[Any] = [_Content(item) for item in items]
    found, skipped = run(contents, on_error="skip") if items else (np.empty(0), [])
    out = {each.position for each in skipped}
    failures += [(items[each.position].path, each.reason) for each in skipped]
    for path, reason in failures:
        sys.stderr.write(plain(f"warning: {path}: {reason}") + "\n")
    left = [item for position, item in enumerate(items) if position not in out]
    if not left:
        raise ClzooError(f"none of the {len(failures)} images of {source} could be read.")
    return left, found, len(failures)


def _search(given: argparse.Namespace) -> None:
    vectors = open_vectors(given.vectors)
    embedded = [query for query in given.queries if given.model is not None and Path(query).is_file()]
    rows = {query: None if query in embedded else vectors.row(query) for query in given.queries}
    for query, row in rows.items():
        if row is not None and Path(query).is_file():
            told = f"{query}: its stored vector is taken; for the file that lies here: --model FILE.onnx"
            sys.stderr.write(plain(told) + "\n")
    unknown = [query for query, row in rows.items() if row is None]
    found = {query: vectors.embeddings[row] for query, row in rows.items() if row is not None}
    if unknown:
        if given.model is None:
            raise ClzooError(f"{unknown[0]} is not in {given.vectors}, so it must be embedded: add --model FILE.onnx")
        encoder = load(given.model, given.device)
        _require_same_model(vectors, encoder.provenance, given)
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


def _require_same_model(vectors: Vectors, told: Provenance, given: argparse.Namespace) -> None:
    """Refuse a graph of other weights, or which prepares images otherwise: its vectors cannot be compared."""
    if vectors.weights_sha256 not in ("", told.store_sha256, told.weights_sha256):
        raise ClzooError(
            f"{given.vectors} was made by {vectors.model}, weights {vectors.weights_sha256[:24]}; {given.model} is "
            f"of {told.model}, weights {told.store_sha256[:24]}. Use the model that made it."
        )
    theirs, ours = vectors.preprocessing, told.preprocessing.to_json()
    different = [f"{key} {theirs[key]}, not {ours[key]}" for key in ours if theirs.get(key, ours[key]) != ours[key]]
    if different:
        raise ClzooError(
            f"{given.vectors} was made with another preprocessing than {given.model} has ({'; '.join(different)}). "
            "Export the model with that one, or embed the images anew: python -m clzoo.lite embed"
        )


def _say(line: str) -> None:
    """One line; names of others that would steer a terminal are spelt out."""
    sys.stdout.write(plain(line) + "\n")


if __name__ == "__main__":
    sys.exit(main())
