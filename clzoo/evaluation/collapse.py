"""How much of the feature space an encoder uses: singular values, effective rank, alignment and uniformity.

Features are L2-normalised first, so lengths do not count: what is measured is the cloud of directions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from clzoo.errors import ClzooError
from clzoo.evaluation.features import Features
from clzoo.evaluation.results import Outcome, Result
from clzoo.losses.align_uniform import uniformity
from clzoo.losses.embeddings import unit

UNIFORMITY_IMAGES = 5000
"""Images, evenly spaced over the split, on whose pairs uniformity is measured (our choice: 12 million pairs)."""

PROTOCOL = f"collapse:v1(unit,centered,t=2,pairs of {UNIFORMITY_IMAGES})"

NUMERICAL_RANK_AT = 1e-3
"""Share of the covariance's largest singular value above which another one counts (known)."""

_METRICS = {
    "effective_rank": "effective rank",
    "effective_rank_covariance": "effective rank of covariance",
    "numerical_rank": "numerical rank",
    "alignment": "alignment",
    "uniformity": "uniformity",
}

_ROWS = 4096  # of one block in float64: 64 MB of 2048 features
_POINT = 1e-6  # of unit vectors: a spread below float32's resolution is no spread


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Of N features of D dimensions; see `spectrum`.

    Attributes:
        singular_values: float64 (D,), descending, of the matrix of centred unit features; their squares divided by N
            are the singular values of the covariance.
        effective_rank: exp(-sum p ln p), p the singular values of the features divided by their sum (Roy and Vetterli
            2007; as in RankMe, arXiv 2210.02885, which neither normalises nor centres). From 1 to D.
        effective_rank_covariance: the same of the covariance's singular values, which weigh the large ones more.
        numerical_rank: how many singular values of the covariance exceed 1e-3 of its largest; of the features these
            are the ones above 0.032 of the largest.
    """

    singular_values: torch.Tensor
    effective_rank: float
    effective_rank_covariance: float
    numerical_rank: int


def spectrum(x: torch.Tensor) -> Spectrum:
    """Singular values of the L2-normalised and then centred features (N, D), and what follows from them.

    With N <= D by a decomposition of the matrix itself; else from the eigenvalues of the D x D covariance, which is
    summed in float64 over blocks of rows: values below about 1e-8 of the largest are then rounding, too little to move
    any of the ranks. With N <= D at most N - 1 of the D values are not 0. A feature of zeros stays zero.

    Where all features are equal (or N is 1) there is nothing to decompose: singular values 0, numerical rank 0, and
    effective rank 1, its least value, as for a line; "equal" is a root mean square distance to the mean below 1e-6.

    Raises:
        ClzooError: no features, or values that are not finite.
    """
    count, dim = x.shape
    if not count:
        raise ClzooError("the spectrum of no features was asked for; expected at least one image.")
    if not torch.isfinite(x).all():
        raise ClzooError("features are not finite (NaN or infinity): the encoder is broken.")
    mean = torch.stack([part.sum(dim=0) for part in _unit_blocks(x)]).sum(dim=0) / count  # (D,)
    if count <= dim:
        found = torch.linalg.svdvals(torch.cat(list(_unit_blocks(x))) - mean)  # (N,)
        values = torch.cat([found, found.new_zeros(dim - count)])
    else:
        scatter = torch.zeros(dim, dim, dtype=torch.float64, device=x.device)
        for part in _unit_blocks(x):
            centered = part - mean  # (b, D)
            scatter.addmm_(centered.T, centered)
        values = torch.linalg.eigvalsh(scatter).flip(0).clamp_min(0).sqrt()
    if values.square().sum().item() < count * _POINT**2:
        values = torch.zeros_like(values)
    covariance = values.square() / count
    rank = int((covariance > NUMERICAL_RANK_AT * covariance[0]).sum())
    return Spectrum(values.cpu(), _effective_rank(values), _effective_rank(covariance), rank)


def _unit_blocks(x: torch.Tensor) -> Iterator[torch.Tensor]:
    for part in x.split(_ROWS):
        yield unit(part.double())


def _effective_rank(values: torch.Tensor) -> float:
    total = values.sum()
    if total == 0:
        return 1.0
    return torch.exp(torch.special.entr(values / total).sum()).item()


def alignment_uniformity(first: torch.Tensor, second: torch.Tensor) -> tuple[float, float]:
    """Alignment of the features (N, D) of two views of the same images, and uniformity averaged over both views.

    Wang and Isola 2020 (arXiv 2005.10242) with their exponents: of L2-normalised features, mean |x - y|^2, from 0 to
    4, and log mean exp(-2 |x_i - x_j|^2) over pairs of images, 0 at collapse and about -4 where they are spread.

    Raises:
        ClzooError: fewer than two images, or not the same number on both sides.
    """
    return _alignment(first, second), (_uniformity(first) + _uniformity(second)) / 2


def evaluate_collapse(
    test: Features,
    *,
    projector: nn.Module | None = None,
    pairs: tuple[torch.Tensor, torch.Tensor] | None = None,
    device: torch.device,
) -> Outcome:
    """Spectrum, alignment and uniformity of the features, and of the projections where there is a projector.

    Spectrum and uniformity are of the images as they are, uniformity of at most UNIFORMITY_IMAGES of them; alignment
    is of two augmented views.

    Args:
        projector: (N, D) -> (N, d) in eval mode, on `device`; takes the features as they are, not normalised.
        pairs: features (M, D) of two views of the same images, not normalised; without them alignment is null.

    Returns:
        metrics "backbone effective rank", "backbone numerical rank", ... and, with a projector, "projector ...";
        details {"backbone": {"dim", "singular_values", ...}, "projector": the same or None}.

    Raises:
        ClzooError: fewer than two images, or features that are not finite.
    """
    if len(test) < 2:
        raise ClzooError(f"collapse is measured on at least two images; {test.origin} has {len(test)}.")
    spaces = {"backbone": _describe(test.x, pairs, device)}
    if projector is not None:
        if pairs is not None:
            pairs = (_project(projector, pairs[0], device), _project(projector, pairs[1], device))
        spaces["projector"] = _describe(_project(projector, test.x, device), pairs, device)
    results = [
        Result(PROTOCOL, f"{space} {metric}", float(values[key]))
        for space, values in spaces.items()
        for key, metric in _METRICS.items()
        if values[key] is not None
    ]
    return Outcome(results, {"backbone": spaces["backbone"], "projector": spaces.get("projector")})


def _describe(x: torch.Tensor, pairs: tuple[torch.Tensor, torch.Tensor] | None, device: torch.device) -> dict[str, Any]:
    # float64 is not to be had on every accelerator, and is nowhere slower than on the CPU where it is.
    of = spectrum(x.to(device) if device.type == "cuda" else x)
    rows = torch.linspace(0, len(x) - 1, min(len(x), UNIFORMITY_IMAGES), dtype=torch.float64).round().long()
    return {
        "dim": x.shape[1],
        "singular_values": [float(f"{value:.6g}") for value in of.singular_values.tolist()],
        "effective_rank": of.effective_rank,
        "effective_rank_covariance": of.effective_rank_covariance,
        "numerical_rank": of.numerical_rank,
        "alignment": None if pairs is None else _alignment(*pairs),
        "uniformity": _uniformity(x[rows].to(device)),
    }


@torch.no_grad()
def _alignment(first: torch.Tensor, second: torch.Tensor) -> float:
    if first.shape != second.shape:
        raise ClzooError(
            "alignment is of two views of the same images, found features of shape "
            f"{tuple(first.shape)} and {tuple(second.shape)}; expected the same shape."
        )
    return (unit(first) - unit(second)).square().sum(dim=1).mean().item()


@torch.no_grad()
def _uniformity(x: torch.Tensor) -> float:
    if len(x) < 2:
        raise ClzooError(f"uniformity is of at least two images, found {len(x)}.")
    return uniformity(unit(x)).item()


@torch.no_grad()
def _project(projector: nn.Module, x: torch.Tensor, device: torch.device) -> torch.Tensor:
    return torch.cat([projector(part.to(device)).cpu() for part in x.split(_ROWS)])
