"""Embed the photographs beside this file, index them, search them, and look at the result. Needs no network.

    make demo                             # with the bundled model
    python examples/demo.py MODEL         # with another: a name of `clzoo list`, or a folder

Writes to demo/, beside this folder: the embeddings, their FAISS index, and three pages: index.html with a few searches,
map.html to look around in, and duplicates.html of the photographs with copies that were put among them.
"""

import logging
import os
import shutil
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

import clzoo
from clzoo.curation import Duplicates
from clzoo.embed import DEFAULT_MODEL
from clzoo.evaluation.controls import calibrate_batchnorm
from clzoo.images import decode_image
from clzoo.index import write_page
from clzoo.neighbors import nearest_others, precision

PICTURES = Path(__file__).resolve().parent / "photographs"
OUT = Path(os.path.relpath(Path(__file__).resolve().parent.parent / "demo"))
NEIGHBORS = 5


def main(model: str = DEFAULT_MODEL) -> None:
    logging.basicConfig(format="  %(message)s", stream=sys.stdout)
    logging.getLogger("clzoo").setLevel(logging.INFO)

    shutil.rmtree(OUT / "embeddings", ignore_errors=True)  # those of another model would be refused, not mixed

    print("1. Load, embed, index")
    encoder = clzoo.load(model, device="cpu", offline=True)
    clzoo.embed_folder(PICTURES, model, out=OUT / "embeddings", device="cpu", labels=True)
    store = clzoo.open_store(OUT / "embeddings")
    index = clzoo.build_index(store)

    print("2. Search every picture")
    pictures = [PICTURES / path for path in store.paths]
    groups = list(store.labels)
    results = clzoo.search(index, pictures, k=NEIGHBORS + 1, encoder=encoder)
    # A picture finds itself first; its neighbors are the others.
    neighbors = [
        [hit for hit in hits if hit.path != path][:NEIGHBORS] for path, hits in zip(store.paths, results, strict=True)
    ]
    found = precision(groups, [[hit.row for hit in hits] for hits in neighbors])
    control = [random_precision(encoder, pictures, groups, seed) for seed in range(3)]

    print(f"""
Of the {NEIGHBORS} nearest neighbors of a picture, the share of its own group \
({len(pictures)} pictures, {len(set(groups))} groups):
  {encoder.config.name:<38} {found:6.1%}
  {"the same network, random weights *":<38} {statistics.mean(control):6.1%}  +- {statistics.stdev(control):.1%}
  {"neighbors drawn at random":<38} {chance(groups):6.1%}
  * mean and standard deviation of 3 seeds, BatchNorm statistics from one pass over the pictures
""")

    first_of_group = [groups.index(group) for group in sorted(set(groups))]
    page = write_page(
        OUT / "index.html",
        index,
        [pictures[row] for row in first_of_group],
        [neighbors[row] for row in first_of_group],
        title="The nearest pictures to the first of each group",
    )

    print("3. Make a map")
    store_map = clzoo.explore(store, flags=["labels", "outliers"], encoder=encoder).write_page(OUT / "map.html")

    print("4. Put copies among the photographs, and find them")
    duplicates = find_planted(encoder, OUT)
    copies = duplicates.write_page(OUT / "duplicates.html")
    print("\n".join(["", *duplicates.summary(), ""]))

    command = os.path.relpath(Path(sys.executable).with_name("clzoo"))
    print(f"""Look at it:
  searches    {page.resolve().as_uri()}
  a map       {store_map.resolve().as_uri()}
  duplicates  {copies.resolve().as_uri()}

Try next:
  {command} search {store.path} {os.path.relpath(pictures[-1])} -k 5
  {command} explore {store.path}
  {command} embed ~/Pictures --index faiss
  {command} search Pictures-embeddings ONE.jpg --html found.html""")


def find_planted(encoder: clzoo.Encoder, out: Path) -> Duplicates:
    """The duplicates in a folder of the photographs and of copies of some: the same file, saved again, cut."""
    folder = out / "photographs-with-copies"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(PICTURES, folder)
    for number, picture in enumerate(sorted(PICTURES.glob("*/*.webp"))[::12]):
        image = decode_image(picture)
        copy = folder / picture.parent.name / f"copy_of_{picture.stem}"
        if number % 3 == 0:
            shutil.copy(picture, copy.with_suffix(".webp"))
        elif number % 3 == 1:
            image.save(copy.with_suffix(".jpg"), quality=75)
        else:
            dx, dy = image.width // 20, image.height // 20
            image.crop((dx, dy, image.width - dx, image.height - dy)).save(copy.with_suffix(".png"))
    shutil.rmtree(out / "copies-embeddings", ignore_errors=True)
    clzoo.embed_folder(folder, encoder, out=out / "copies-embeddings")
    return clzoo.find_duplicates(out / "copies-embeddings", encoder=encoder)


def chance(groups: Sequence[str]) -> float:
    """The expected precision of neighbors drawn at random."""
    return float(np.mean([(groups.count(group) - 1) / (len(groups) - 1) for group in groups]))


def random_precision(encoder: clzoo.Encoder, pictures: Sequence[Path], groups: Sequence[str], seed: int) -> float:
    """The same measurement on the same network with random weights: what the training has added is the difference."""
    torch.manual_seed(seed)
    untrained = clzoo.Encoder.untrained(encoder.config)
    # BatchNorm needs statistics of real activations, or the control would be weaker than it has to be.
    calibrate_batchnorm(untrained, [torch.from_numpy(np.stack([untrained.pixels(picture) for picture in pictures]))])
    return precision(groups, nearest_others(untrained.embed(pictures), NEIGHBORS))


if __name__ == "__main__":
    main(*sys.argv[1:])
