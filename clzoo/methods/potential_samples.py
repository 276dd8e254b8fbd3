"""Mining of Potential Samples (Dong et al., arXiv 2311.00358): a re-implementation from the abstract, on MoCo v2.

Positives are the augmented view and the queue's nearest neighbors of the key; negatives are weighted by how hard they
are. The weights, the ramp and the numbers are our choice throughout.
"""

from typing import Literal

import torch
from pydantic import Field
from torch import nn

from clzoo.device import to_device
from clzoo.distributed import gather, gather_constant
from clzoo.losses import potential_samples
from clzoo.losses.potential_samples import Negatives, Positives, mutual_neighbors
from clzoo.methods.batch import Batch, Needs
from clzoo.methods.heads import Widths, mlp
from clzoo.methods.momentum import Queue
from clzoo.methods.momentum_host import MomentumHost
from clzoo.methods.record import Method
from clzoo.schema import Table

RAMP = (0.05, 0.2)  # shares of the run between which the mined mass rises from 0 to 1, mining with the key


class PotentialSamplesOptions(Table):
    """`method:` of the recipe; see clzoo.losses.potential_samples for the modes.

    mining: what searches the queue for positives. "key": the strong view's key, with a mined mass that follows the
    epoch. "weak": the momentum embedding of a third, weak view; the mined mass is the share of the batch that is its
    nearest neighbor's nearest, so it stays low until neighbors mean something.
    """

    name: Literal["potential_samples"]
    temperature: float = Field(0.2, gt=0)
    queue: int = Field(65_536, gt=0)
    momentum: float = Field(0.999, ge=0, le=1)
    projector: Widths
    mining: Literal["key", "weak"] = "key"
    k: int = Field(5, ge=1)
    positives: Positives = "both"
    negatives: Negatives = "near_positive"
    rho: float = Field(0.5, ge=0, le=1)
    eta: float = Field(0.5, ge=0, le=1)
    tau_w: float = Field(0.1, gt=0)
    a: float = 12.5
    b: float = 0.0
    beta: float = 1.0
    band_hard: float = Field(0.05, ge=0, lt=1)
    band_easy: float = Field(0.5, ge=0, lt=1)


class PotentialSamples(MomentumHost):
    """MoCo v2 with mined positives and weighted negatives. Views: strong, strong, and weak where that one mines."""

    def __init__(self, backbone: nn.Module, feature_dim: int, options: PotentialSamplesOptions) -> None:
        super().__init__(backbone, mlp([feature_dim, *options.projector], hidden_batchnorm=False))
        self.queue = Queue(options.queue, options.projector[-1])
        self.options = options
        self.one_pass = options.mining == "key"  # each network is called once in a step

    def prepare(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The keys' order, and the mined mass of this moment: ()."""
        self.update_momentum(batch, self.options.momentum)
        return self.key_order(batch), to_device(torch.tensor(mined_mass(batch.progress)), batch.views[0].device)

    def loss(self, batch: Batch, order: torch.Tensor, mass: torch.Tensor) -> torch.Tensor:
        o = self.options
        z, k = self.query(batch.views[0]), self.shuffled_key(batch.views[1], order)
        weak: torch.Tensor | None = None
        if o.mining == "weak":
            weak = gather_constant(self.shuffled_key(batch.views[2], order))
            mass = mutual_neighbors(weak, self.queue.entries)
        loss = potential_samples(
            gather(z),
            gather(k),
            self.queue.entries,
            temperature=o.temperature,
            k=o.k,
            positives=o.positives,
            negatives=o.negatives,
            rho=o.rho,
            eta=o.eta,
            tau_w=o.tau_w,
            a=o.a,
            b=o.b,
            beta=o.beta,
            band=(o.band_hard, o.band_easy),
            mined_mass=mass,
            weak=weak,
        )
        self.queue.push(k)
        return loss


def mined_mass(progress: float) -> float:
    """0 for the first 5 % of the run, rising linearly to 1 at 20 %."""
    start, end = RAMP
    return min(1.0, max(0.0, (progress - start) / (end - start)))


def _needs(options: PotentialSamplesOptions) -> Needs:
    views = 3 if options.mining == "weak" else 2
    return Needs(views, views, batchnorm="shuffled")


METHOD = Method(
    title="Mining of Potential Samples (re-implementation from the abstract)",
    arxiv="2311.00358",
    options=PotentialSamplesOptions,
    build=PotentialSamples,
    needs=_needs,
    implementation="clzoo's re-implementation from the abstract: everything the abstract leaves open is our choice",
)
