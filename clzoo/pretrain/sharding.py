"""FSDP2: each of several processes keeps its part of the weights, gradients and optimiser, for large ViTs.

Checkpoints hold whole tensors, in the form of a run without sharding: a run may go on with another number of processes
in either way. Buffers, queues among them, are whole in every process.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from clzoo.distributed import world_size
from clzoo.errors import ClzooError


def shard(method: nn.Module, architecture: str, device: torch.device) -> None:
    """Share out the parameters of a method over all processes, in place.

    Each part of the method (encoder, momentum encoder, heads) is a unit of its own and gathers its weights when it is
    called. The method itself is none: between these calls, as when the momentum encoder follows, weights are shares.

    Raises:
        ClzooError: a network without transformer blocks.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    method.to(memory_format=torch.contiguous_format)  # FSDP2 cuts nothing else; of a ViT that is the patch embedding
    mesh = init_device_mesh(device.type, (world_size(),))
    for part in method.children():
        if not any(True for _ in part.parameters()):
            continue
        for block in getattr(part, "blocks", ()):
            fully_shard(block, mesh=mesh, reshard_after_forward=True)
        fully_shard(part, mesh=mesh, reshard_after_forward=True)  # a momentum encoder has no backward pass to do it
    if not is_sharded(method) or not hasattr(method.backbone, "blocks"):
        raise ClzooError(f"shard_weights is for ViTs; {architecture} has no blocks. Type: --set shard_weights=false")


def is_sharded(method: nn.Module) -> bool:
    """Whether the parameters are shares."""
    return any(_is_share(parameter) for parameter in method.parameters())


def whole(state: Any) -> Any:
    """A state dict, nested or not, with every shared tensor put together on the CPU. All processes have to call it."""
    if _is_share(state):
        return state.full_tensor().detach().cpu()
    if isinstance(state, dict):
        return {key: whole(value) for key, value in state.items()}
    if isinstance(state, list):
        return [whole(value) for value in state]
    return state


def share_out(optimizer: torch.optim.Optimizer) -> None:
    """After whole tensors were loaded into an optimiser: give each parameter's state its parameter's layout."""
    parameter: Any
    for parameter, state in optimizer.state.items():
        if not _is_share(parameter):
            continue
        from torch.distributed.tensor import distribute_tensor

        for key, value in state.items():
            if isinstance(value, torch.Tensor) and value.shape == parameter.shape:
                state[key] = distribute_tensor(value, parameter.device_mesh, parameter.placements)


def own_part(tensor: Any) -> torch.Tensor:
    """What of a tensor lies in this process."""
    part: torch.Tensor = tensor.to_local() if _is_share(tensor) else tensor
    return part


def _is_share(value: Any) -> bool:
    return hasattr(value, "full_tensor")  # a DTensor; the class comes with an import that few runs need
