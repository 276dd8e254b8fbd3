"""What a method is given at each step, and what it declares to need."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

from clzoo.distributed import rank
from clzoo.errors import ClzooError

_NETWORK = 65_535  # a generator number that neither groups nor the keys' order have; further processes count down


@dataclass(frozen=True)
class Batch:
    """One step's input. All random draws of a method are functions of (seed, step), never of global state.

    Attributes:
        views: V tensors (B, 3, H, W), normalised; sizes may differ between views.
        labels: (B,) classes, or None where the data have none.
        progress: share of the run that is done, in [0, 1).
        samples: (B,) numbers of the images in their set, on the host; None where nobody asks.
        part: batches since the weights last moved, more than 0 only with `schedule.accumulate`.
    """

    views: list[torch.Tensor]
    labels: torch.Tensor | None = None
    seed: int = 0
    step: int = 0
    progress: float = 0.0
    samples: torch.Tensor | None = None
    part: int = 0

    def __len__(self) -> int:
        return len(self.views[0])

    def generator(self, group: int) -> torch.Generator:
        """A generator for one group of the global batch: a function of (seed, step, group), on the CPU."""
        return torch.Generator().manual_seed(self.seed_of(group))

    def seed_of(self, group: int) -> int:
        """The seed of that generator, in [0, 2^64): torch takes no larger one."""
        return ((self.seed * 1_000_003 + self.step) * 65_537 + group) % 2**64

    def seed_networks(self) -> None:
        """Make what networks draw (dropout, stochastic depth) a function of (seed, step, process): torch's own
        generator, which they draw from, has state."""
        torch.manual_seed(self.seed_of(_NETWORK - rank()))

    def groups(self, size: int | None) -> list[tuple[slice, torch.Generator]]:
        """The parts of this process's batch within which a method permutes, each with its generator.

        Args:
            size: images per group (recipe key `group`); None: the process's whole batch.

        Raises:
            ClzooError: the size does not divide the batch.
        """
        size = size or len(self)
        if len(self) % size:
            raise ClzooError(f"method.group={size} does not divide the batch of {len(self)} images per process.")
        per_process = len(self) // size
        return [(slice(g * size, (g + 1) * size), self.generator(rank() * per_process + g)) for g in range(per_process)]


@dataclass(frozen=True)
class Needs:
    """What a method needs: how many views and which of one size, labels, and the kind of BatchNorm on several devices.

    joined: so many of the first views go through a network as one batch, or into one picture; "all" or a number.
    "sync": statistics over all processes. "shuffled": per process, and on one device over groups of the batch (recipe
    key `backbone.batchnorm_groups`); either way keys are encoded in another order than queries.
    """

    min_views: int
    max_views: int | None = None
    labels: bool = False
    batchnorm: Literal["sync", "shuffled"] = "sync"
    joined: int | Literal["all"] = 0

    def check_views(self, method: str, found: int) -> None:
        """Refuse a recipe whose views do not fit."""
        if found < self.min_views or (self.max_views is not None and found > self.max_views):
            wanted = str(self.min_views) if self.max_views == self.min_views else f"at least {self.min_views}"
            raise ClzooError(f"{method} needs {wanted} views, the recipe's `views` add up to {found}.")

    def check_sizes(self, method: str, sizes: list[int]) -> None:
        """Refuse views of several sizes, in pixels, where they are joined."""
        joined = sizes if self.joined == "all" else sizes[: self.joined]
        if len(set(joined)) > 1:
            raise ClzooError(
                f"{method} joins {len(joined)} views, which must have one size; the recipe's `views` have "
                f"{' and '.join(map(str, dict.fromkeys(joined)))} pixels. Give each group of `views` the same, such "
                f"as --set views.1.size={joined[0]}"
            )


TWO_VIEWS = Needs(2, 2)
