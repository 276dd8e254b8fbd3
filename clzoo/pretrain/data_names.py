"""What a run trained on may be called: a published data set's name only where the images are that data set."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from clzoo.config import HUB_PREFIX
from clzoo.data.imbalance import class_sizes
from clzoo.data.known_sets import KNOWN, KnownSet, claimed, recognised
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.run_folder import read_data, read_source


@dataclass(frozen=True)
class TrainedOn:
    """The images of a run.

    Attributes:
        id: for names of models, such as "cifar10".
        title: for people, without a count.
        images: how many.
        known: the published data set that they are, or a subset of by the recipe's rule.
    """

    id: str
    title: str
    images: int
    known: KnownSet | None

    def training_facts(self) -> dict[str, object]:
        """For metrics.json and the card."""
        facts: dict[str, object] = {"data": self.title, "images": self.images}
        return facts | ({"dataset_id": self.known.hub_id} if self.known is not None and self.known.hub_id else {})


def trained_on(run: Path, recipe: Recipe) -> TrainedOn:
    """What the images of a run are, by the classes and the count that it recorded.

    A recipe for CIFAR-10 may train on anything: its title and id count where they name no published data set, or the
    one that the images are. Else the name of their folder stands for them, or "unnamed" where the run does not know it.
    """
    fingerprint, names = read_data(run)
    images, data = int(fingerprint["images"]), recipe.data
    known = _recognised(names, images, data.subset)
    if known is not None:
        subset = f", subset {data.subset}" if data.subset else ""
        return TrainedOn(known.id, f"{known.title}{subset}", images, known)
    source = read_source(run) or ""
    folder = source.removeprefix(HUB_PREFIX).rstrip("/").rpartition("/")[2] or "unnamed"
    title = data.title if claimed(data.title) is None else folder
    is_free = claimed(data.name) is None and data.name != "in100"
    return TrainedOn(data.name if is_free else as_id(folder), title, images, None)


def _recognised(names: tuple[str, ...] | None, images: int, subset: str | None) -> KnownSet | None:
    if subset is None:
        found = (recognised(names, {split: images}) for split in ("train", "pretrain"))
        return next((known for known in found if known is not None), None)
    for known in KNOWN.values():
        whole, classes = known.images["train"], len(names or ())
        if classes > 1 and recognised(names, {"train": whole}) == known:
            return known if sum(class_sizes([whole // classes] * classes, subset)) == images else None
    return None


def as_id(text: str) -> str:
    """A text as a part of a zoo name, which has three parts between hyphens."""
    return re.sub(r"[^a-z0-9.]+", "_", text.lower()).strip("_.") or "unnamed"
