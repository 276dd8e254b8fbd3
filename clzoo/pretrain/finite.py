"""Whether losses are numbers, found out on the device: a step does not wait to know."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from clzoo.errors import ClzooError
from clzoo.pretrain.checkpoint import has_checkpoint
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.sharding import is_sharded, own_part
from clzoo.pretrain.stopping import any_process

EVERY = 50
"""Steps between two looks at what a device has found; a CPU is looked at in each step, where it costs nothing."""


class FiniteLosses:
    """Keeps the first step whose loss was not finite, and that loss, where the losses are computed.

    Reading it waits for the device, so `check` is called every `EVERY` steps and before anything that lasts: a
    checkpoint, a line in the log, a look at the run, its end. Steps after a bad one are lost anyway.
    """

    def __init__(self, device: torch.device, out: Path, recipe: Recipe) -> None:
        self._step = torch.full((), -1, dtype=torch.long, device=device)
        self._loss = torch.zeros((), device=device)
        self._every = 1 if device.type == "cpu" else EVERY
        self._out, self._lower = out, f"--set optimizer.base_lr={recipe.optimizer.base_lr / 2:g}"

    @torch.no_grad()
    def add(self, step: int, loss: torch.Tensor) -> None:
        """Take note of a step's loss; raises what `check` raises, every `EVERY` steps."""
        loss = loss.detach().float()
        is_first = ~torch.isfinite(loss) & (self._step < 0)
        self._loss = torch.where(is_first, loss, self._loss)
        self._step = self._step.masked_fill(is_first, step)  # the number travels with the kernel, and is not copied
        if step % self._every == 0:
            self.check()

    def check(self) -> None:
        """Raise ClzooError if a loss so far was not finite, naming the step."""
        step = int(self._step)
        if step >= 0:
            raise ClzooError(f"the loss is {float(self._loss)} at step {step}; {self._remedy()}")

    @torch.no_grad()
    def check_weights(self, step: int, method: nn.Module) -> None:
        """As `check`, and raise if a weight is not finite: what is kept, or looked at, has to be good.

        Args:
            step: the last one that moved the weights.
        """
        self.check()
        weights = [own_part(tensor) for tensor in method.state_dict().values() if tensor.is_floating_point()]
        bad = not torch.stack([torch.isfinite(tensor).all() for tensor in weights]).all()
        if any_process(bad) if is_sharded(method) else bad:
            raise ClzooError(f"the weights are not finite after step {step}; {self._remedy()}")

    def _remedy(self) -> str:
        if not has_checkpoint(self._out):  # the next command takes the folder over
            return f"no step of the run was kept. Try a lower rate: {self._lower}"
        return f"the last good checkpoint is kept in {self._out}. Try a lower rate, with another --out: {self._lower}"
