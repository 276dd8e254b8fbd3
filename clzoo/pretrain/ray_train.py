"""`clzoo pretrain --engine ray`: the training loop in processes of a Ray cluster, which starts them anew when one dies.

Nothing of a run is Ray's: the processes find each other as under torchrun, the first one writes the run folder, and a
restart goes on from its newest checkpoint. The folder and the images must lie where every machine sees them.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

from clzoo.data.storage import is_remote
from clzoo.distributed import PATIENCE
from clzoo.errors import ClzooError
from clzoo.files import read_json
from clzoo.pretrain.recipe import Recipe
from clzoo.temporary import temporary_folder
from clzoo.zoo.entries import whole_name

RESTARTS = 3
"""How often a run is started anew when a process dies; it has its checkpoints, so this bounds a fault that stays."""


def pretrain_on_ray(
    recipe: Recipe,
    data: str | Path,
    out: Path,
    *,
    workers: int | None = None,
    device: str = "auto",
    max_minutes: float | None = None,
    init: str | None = None,
) -> bool:
    """As `clzoo.pretrain.loop.pretrain`, on the cluster of RAY_ADDRESS, else on a Ray of this machine.

    Args:
        workers: processes; None: one for each GPU of the cluster, without GPUs one.
        device: "auto", "cuda" or "cpu".

    Raises:
        ClzooError: ray is not installed, a device that the cluster does not have, or what ended the training.
    """
    ray, train = _import_ray()
    started_here = not ray.is_initialized()
    if started_here:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        gpus = int(ray.cluster_resources().get("GPU", 0))
        if device not in ("auto", "cpu", "cuda") or (device == "cuda" and not gpus):
            raise ClzooError(f"device {device!r} cannot be had of a Ray cluster with {gpus} GPUs: auto, cpu or cuda.")
        on_gpu = device != "cpu" and gpus > 0
        place = str(data) if is_remote(data) or str(data).startswith("hf-hub:") else str(Path(data).resolve())
        told = {
            "recipe": _with_whole_path(recipe).model_dump(mode="json"),
            "data": place,
            "out": str(out.resolve()),
            "init": None if init is None else whole_name(init),
            "device": "cuda" if on_gpu else "cpu",
            "max_minutes": max_minutes,
        }
        out.parent.mkdir(parents=True, exist_ok=True)
        with temporary_folder(out.parent.resolve(), "the records of Ray Train") as records:
            trainer = train.torch.TorchTrainer(
                _in_a_worker,
                train_loop_config=told,
                torch_config=train.torch.TorchConfig(
                    backend="cpu:gloo,cuda:nccl" if on_gpu else "gloo", timeout_s=int(PATIENCE.total_seconds())
                ),
                scaling_config=train.ScalingConfig(num_workers=workers or max(1, gpus), use_gpu=on_gpu),
                run_config=train.RunConfig(
                    name=out.name,
                    storage_path=str(records),
                    failure_config=train.FailureConfig(max_failures=RESTARTS, controller_failure_limit=RESTARTS),
                ),
            )
            trainer.fit()
    except (ray.exceptions.RayError, train.TrainingFailedError) as error:
        lines = [line for line in str(error).strip().splitlines() if line.strip()]
        raise ClzooError(f"the training on Ray failed: {lines[-1] if lines else type(error).__name__}") from error
    finally:
        if started_here:
            ray.shutdown()
    return bool(read_json(out / "state.json")["finished"])


def _with_whole_path(recipe: Recipe) -> Recipe:
    if recipe.start is None:
        return recipe
    return recipe.model_copy(update={"start": recipe.start.model_copy(update={"name": whole_name(recipe.start.name)})})


def _in_a_worker(told: dict[str, Any]) -> None:
    """Runs in each process of the cluster; torch.distributed is up."""
    import torch

    from clzoo.pretrain.loop import pretrain

    device = told["device"]
    if device == "cuda":
        device = f"cuda:{torch.cuda.current_device()}"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    recipe = Recipe.model_validate(told["recipe"])
    pretrain(recipe, told["data"], Path(told["out"]), device=device, max_minutes=told["max_minutes"], init=told["init"])


def _import_ray() -> tuple[Any, Any]:
    try:
        ray, train = import_module("ray"), import_module("ray.train")
        import_module("ray.train.torch")
    except ImportError as error:
        raise ClzooError(f'ray.train cannot be imported ({error}). Type: pip install "clzoo[ray]"') from error
    return ray, train
