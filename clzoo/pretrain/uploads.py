"""Checkpoints on a branch of the Hub while a run goes on: beside the training, and never in its way."""

from __future__ import annotations

import logging
import tempfile
import threading
from pathlib import Path
from typing import Any

from clzoo.pretrain.feed import Steps
from clzoo.pretrain.recipe import Recipe
from clzoo.pretrain.recipe_files import load_recipe
from clzoo.pretrain.trained import BACKBONE, encoder_of_state, save_checkpoint_entry
from clzoo.wording import clzoo_command
from clzoo.zoo.pushing import push

log = logging.getLogger("clzoo")

BRANCH = "checkpoints"
"""Where they go: main is for the finished model."""


class CheckpointUploads:
    """Pushes the encoder of every so many epochs; one that fails, or finds the last one still on its way, is a warning.

    A push runs in a thread of its own, from copies of the weights: a slow network holds up no step, and a process that
    ends meanwhile leaves the branch as it was, since a push is one commit.
    """

    def __init__(self, run: Path, recipe: Recipe, repo_id: str, every_epochs: int) -> None:
        self._run, self._recipe, self._repo_id, self._every = run, recipe, repo_id, every_epochs
        self._pushing: threading.Thread | None = None

    def __call__(self, method: Any, step: int, steps: Steps) -> None:
        """To be called after the checkpoint of a step; pushes if an epoch that is due has just ended."""
        epoch, rest = divmod(step, steps.per_epoch)
        if rest >= self._recipe.schedule.accumulate or epoch == 0 or epoch % self._every or step == steps.total:
            return  # the end has a push of its own
        if self._pushing is not None and self._pushing.is_alive():
            log.warning("the checkpoint of step %d is not pushed: the one before is still on its way", step)
            return
        state = {n: t.detach().cpu().clone() for n, t in method.state_dict().items() if n.startswith(BACKBONE)}
        self._pushing = threading.Thread(target=self._push, args=(state, step, epoch), daemon=True, name="clzoo-push")
        self._pushing.start()

    def wait(self) -> None:
        """Until the push that is under way has ended."""
        if self._pushing is not None:
            self._pushing.join()

    def _push(self, state: dict[str, Any], step: int, epoch: int) -> None:
        try:
            with tempfile.TemporaryDirectory(prefix="clzoo-push-") as folder:
                recipe = load_recipe(self._run / "recipe.yaml")  # which names what the run started from
                encoder = encoder_of_state(self._run, recipe, state, f"the checkpoint of step {step}")
                entry = save_checkpoint_entry(encoder, recipe, step, Path(folder) / "entry")
                push(entry, self._repo_id, revision=BRANCH, commit_message=f"Epoch {epoch}, step {step}")
        except Exception as error:  # whatever it was: the training is worth more
            out = f"{self._run}-step-{step}"
            by_hand = [
                clzoo_command("convert", self._run, "--out", out),
                clzoo_command("push", out, self._repo_id, "--revision", BRANCH),
            ]
            log.warning(
                "the checkpoint of step %d was not pushed, and the run goes on: %s By hand: %s",
                step, error, " && ".join(by_hand),
            )  # fmt: skip
