"""Softmax regression by L-BFGS over blocks of rows, preconditioned.

Minimised over weights W (C, D) and bias b (C,) is

    F = mean cross-entropy + penalty / 2 |W|^2        (the bias is not penalised)

With Z the features and a column of ones, the Hessian of the mean cross-entropy is at most 1/2 (I - 11'/C) (x) Z'Z / N
(Boehning 1992, Ann. Inst. Statist. Math. 44). The half is reached only where two classes share an image; in its place
stands here the mean over images of (1 - |p|^2) / (C - 1), p the class probabilities at the start: the average of the
C - 1 curvatures of an image. With the Cholesky factor L L' = that x Z'Z / N + penalty (but for the bias) and
[W b] = V L^-1 the optimum stays where it is, and L-BFGS over V meets curvatures near 1: it takes a fifth of the steps
or fewer on features of uneven variance. Z'Z is computed once for all penalties.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass

import torch

log = logging.getLogger("clzoo")

MEMORY_BUDGET = 512 << 20
"""Bytes of one block of rows with its scores, beside the features themselves."""

_CACHED_ROWS = 2048  # of a block on the CPU: read from memory once for both its scores and its gradient
TOLERANCE = 2e-4
"""Largest entry of the gradient over V at which L-BFGS ends: F was within 5e-5 of its minimum where we looked."""

_STEPS = 1000


@dataclass(frozen=True)
class Standardization:
    """Shift and scale per dimension.

    Attributes:
        mean: (D,)
        scale: (D,) one over the standard deviation; 0 where features vary by no more than float32 rounds.
    """

    mean: torch.Tensor
    scale: torch.Tensor

    @classmethod
    def of(cls, x: torch.Tensor, *, device: torch.device | None = None) -> Standardization:
        """Gives features like x (N, D) mean 0 and variance 1 (over N, not N - 1); sums are float64."""
        device = x.device if device is None else device
        exact = _exact(device)
        rows = _block_rows(x, 1, device, MEMORY_BUDGET)
        total, squares = (torch.zeros(x.shape[1], dtype=torch.float64, device=exact) for _ in range(2))
        for _, block in _blocks(x, None, device, rows):
            total += block.to(exact).double().sum(dim=0)
        mean = total / len(x)
        for _, block in _blocks(x, None, device, rows):
            squares += (block.to(exact).double() - mean).square().sum(dim=0)
        std = (squares / len(x)).sqrt()
        scale = torch.where(std <= 1e-6 * mean.abs(), 0.0, 1 / std)
        return cls(mean.to(device, x.dtype), scale.to(device, x.dtype))

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        return torch.sub(x, self.mean).mul_(self.scale)


@dataclass(frozen=True)
class Softmax:
    """A linear classifier.

    Attributes:
        weight: (C, D)
        bias: (C,); -inf for a class without images in training: it is never predicted.
        standardization: applied to features first.
    """

    weight: torch.Tensor
    bias: torch.Tensor
    standardization: Standardization | None = None

    def scores(self, x: torch.Tensor, *, budget: int = MEMORY_BUDGET) -> torch.Tensor:
        """Class scores (N, C) of features (N, D), where the weights are."""
        device = self.weight.device
        blocks = _blocks(x, self.standardization, device, _block_rows(x, len(self.bias), device, budget))
        return torch.cat([torch.addmm(self.bias, block, self.weight.T) for _, block in blocks])


def fit_softmax(
    x: torch.Tensor,
    labels: torch.Tensor,
    classes: int,
    *,
    penalty: float,
    weights: torch.Tensor | None = None,
    offset: torch.Tensor | None = None,
    start: Softmax | None = None,
    standardization: Standardization | None = None,
    moments: torch.Tensor | None = None,
    tolerance: float = TOLERANCE,
    device: torch.device | None = None,
    budget: int = MEMORY_BUDGET,
) -> Softmax:
    """Minimise the weighted mean cross-entropy + penalty / 2 |W|^2 by L-BFGS; as the head of this file says.

    Features are read in blocks of rows and never copied as a whole, so x may be mapped from a disk. Parameters and sums
    over images are float64, products of blocks are in the precision of x.

    Args:
        x: features (N, D), float32 or float64, on the CPU or on `device`.
        labels: int64 (N,), below `classes`. A class without weight is never predicted.
        penalty: above 0.
        weights: (N,), not negative, of the images in the mean; 0 leaves one out.
        offset: (C,) added to the scores in training alone.
        start: solution to start from; zeros otherwise.
        standardization: applied to each block of features.
        moments: of `second_moments`, where they are known; any positive ones lead to the same optimum.
        tolerance: see TOLERANCE.
        device: where to compute; default where x is.
        budget: bytes of a block of rows with its scores.
    """
    device = x.device if device is None else device
    exact = _exact(device)
    dim = x.shape[1]
    weights = (torch.ones(len(x)) if weights is None else weights).cpu().double()
    if moments is None:
        moments = second_moments(x, weights, standardization, device=device, budget=budget)
    present = torch.bincount(labels.cpu(), weights, minlength=classes) > 0
    # Images of no weight take a class that has some, as the score of a class that has none is -inf, and 0 x inf is NaN.
    labels = torch.where(weights > 0, labels.cpu(), present.int().argmax()).to(device)
    share = (weights / weights.sum()).to(device, x.dtype)
    added = torch.zeros(classes) if offset is None else offset.cpu()
    added = added.where(present, -torch.inf).to(device, x.dtype)

    both = torch.zeros(classes, dim + 1, dtype=torch.float64, device=exact)  # weight and bias
    if start is not None:
        both[:, :dim] = start.weight.to(exact)
        both[:, dim] = start.bias.to(exact).nan_to_num(neginf=0.0)

    def in_training(both: torch.Tensor) -> Softmax:
        bias = both[:, dim].to(device, x.dtype) + added
        return Softmax(both[:, :dim].to(device, x.dtype), bias, standardization)

    ridge = torch.full((dim + 1,), penalty, dtype=torch.float64, device=exact)
    ridge[dim] = 0
    curvature = mean_curvature(x, in_training(both), share, budget=budget)
    factor = torch.linalg.cholesky(curvature * moments + torch.diag(ridge))
    inverse = torch.linalg.solve_triangular(factor, torch.eye(dim + 1, dtype=torch.float64, device=exact), upper=False)
    v = (both @ factor).requires_grad_()  # (C, D + 1)

    def objective() -> torch.Tensor:
        both = v.detach() @ inverse
        loss, gradient = cross_entropy(x, labels, in_training(both), share, budget=budget)
        v.grad = (gradient.to(exact).double() + both * ridge) @ inverse.T
        return loss.to(exact) + penalty / 2 * both[:, :dim].square().sum()

    optimizer = torch.optim.LBFGS(
        [v], max_iter=_STEPS, max_eval=100 * _STEPS, history_size=10, tolerance_grad=tolerance,
        tolerance_change=tolerance**2 / 100, line_search_fn="strong_wolfe",
    )  # fmt: skip
    optimizer.step(objective)
    if optimizer.state[v]["n_iter"] >= _STEPS:
        log.warning("the linear probe with penalty %g did not converge in %d steps", penalty, _STEPS)
    both = v.detach() @ inverse
    bias = both[:, dim].where(present.to(exact), -torch.inf)
    return Softmax(both[:, :dim].to(device, x.dtype), bias.to(device, x.dtype), standardization)


def cross_entropy(
    x: torch.Tensor, labels: torch.Tensor, at: Softmax, share: torch.Tensor, *, budget: int = MEMORY_BUDGET
) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of a classifier, summed over images with `share` (N,), and its gradient (C, D + 1).

    The gradient, of the weights and then the bias, is (softmax - one-hot)' diag(share) [z 1], block by block.
    """
    device = at.weight.device
    loss = torch.zeros((), dtype=torch.float64, device=_exact(device))
    gradient = torch.zeros(len(at.bias), x.shape[1] + 1, dtype=x.dtype, device=device)
    for rows, block in _blocks(x, at.standardization, device, _block_rows(x, len(at.bias), device, budget)):
        own = labels[None, rows]  # (1, b)
        # Classes first: a softmax over a few neighboring numbers takes longer than the products.
        log_softmax = torch.addmm(at.bias[:, None], at.weight, block.T).log_softmax(dim=0)  # (C, b)
        loss -= (share[rows] * log_softmax.gather(0, own)[0]).to(loss.device).double().sum()
        residual = log_softmax.exp_().scatter_add_(0, own, torch.full_like(own, -1, dtype=x.dtype))
        residual *= share[rows]
        gradient[:, :-1].addmm_(residual, block)
        gradient[:, -1] += residual.sum(dim=1)
    return loss, gradient


def mean_curvature(x: torch.Tensor, at: Softmax, share: torch.Tensor, *, budget: int = MEMORY_BUDGET) -> float:
    """(1 - |p|^2) / (C - 1) of images (N, D), averaged with `share` (N,): at most 1 / C, and at least 1e-4 here."""
    device = at.weight.device
    total = torch.zeros((), dtype=torch.float64, device=_exact(device))
    for rows, block in _blocks(x, at.standardization, device, _block_rows(x, len(at.bias), device, budget)):
        probabilities = torch.addmm(at.bias[:, None], at.weight, block.T).softmax(dim=0)  # (C, b)
        total += (share[rows] * (1 - probabilities.square().sum(dim=0))).to(total.device).double().sum()
    classes = int(torch.isfinite(at.bias).sum())
    return max(1e-4, total.item() / max(1, classes - 1))


def second_moments(
    x: torch.Tensor,
    weights: torch.Tensor,
    standardization: Standardization | None = None,
    *,
    device: torch.device | None = None,
    budget: int = MEMORY_BUDGET,
) -> torch.Tensor:
    """Weighted mean of z z', z the features of an image and a one: float64 (D + 1, D + 1), positive definite.

    Products of blocks are in the precision of x; what is added to the diagonal outweighs their rounding.
    """
    device = x.device if device is None else device
    exact = _exact(device)
    dim = x.shape[1]
    share = (weights / weights.sum()).to(device, x.dtype)
    moments = torch.zeros(dim + 1, dim + 1, dtype=torch.float64, device=exact)
    for rows, block in _blocks(x, standardization, device, _block_rows(x, dim, device, budget)):
        z = torch.nn.functional.pad(block, (0, 1), value=1.0)  # (b, D + 1)
        moments += ((z * share[rows, None]).T @ z).to(exact)
    moments.diagonal().add_(torch.finfo(x.dtype).eps * moments.trace())
    return moments


def _blocks(
    x: torch.Tensor, standardization: Standardization | None, device: torch.device, rows: int
) -> Iterator[tuple[slice, torch.Tensor]]:
    """Rows of x, block by block, on the device and standardised."""
    for first in range(0, len(x), rows):
        part = slice(first, first + rows)
        block = x[part].to(device)
        yield part, block if standardization is None else standardization(block)


def _block_rows(x: torch.Tensor, classes: int, device: torch.device, budget: int) -> int:
    """Rows whose features, raw and standardised, and a few matrices of scores take the budget."""
    rows = budget // (x.element_size() * (2 * x.shape[1] + 3 * classes))
    return max(1, min(rows, _CACHED_ROWS) if device.type == "cpu" else rows)


def _exact(device: torch.device) -> torch.device:
    """Where float64 exists."""
    return torch.device("cpu") if device.type == "mps" else device
