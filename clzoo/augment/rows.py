"""Operations on some rows of a batch.

Which rows is decided on the host, where the random numbers are drawn: a device is never asked for the size of a group,
so that its queue of work is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

Operation = Callable[..., torch.Tensor]


def to_device(values: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Small parameters from the host, without waiting for what the device is doing."""
    return values.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else values.to(device)


def on_rows(images: torch.Tensor, chosen: torch.Tensor, operation: Operation, *parameters: torch.Tensor) -> None:
    """`images[chosen] = operation(images[chosen], *(p[chosen] for p in parameters))`.

    Args:
        images: (B, ...), changed in place.
        chosen: (B,) bool, on the host.
        parameters: (B, ...) each, on the host.
    """
    rows = chosen.nonzero().squeeze(1)
    if len(rows) == 0:
        return
    here = to_device(rows, images.device)
    arguments = [to_device(p[rows], images.device) for p in parameters]
    images.index_copy_(0, here, operation(images.index_select(0, here), *arguments))


def in_groups(
    images: torch.Tensor, layers: Sequence[torch.Tensor], operations: Sequence[Operation], parameters: torch.Tensor
) -> torch.Tensor:
    """Layer after layer, each sample through its own operation.

    Every layer sorts the batch by operation, so that each group is one slice and changes in place.

    Args:
        images: (B, ...).
        layers: one (B,) int64 each, on the host: the operation of each sample; len(operations) for none.
        operations: each takes (images, parameter), of n rows, and changes the images in place.
        parameters: (B, len(layers)) on the host: each layer's parameter.

    Returns:
        (B, ...) in the order that came in.
    """
    lies_at = torch.arange(len(images))  # where each sample lies in the sorted batch
    for layer, choice in enumerate(layers):
        by_operation = choice.argsort(stable=True)
        images = images.index_select(0, to_device(lies_at[by_operation], images.device))
        lies_at = by_operation.argsort()
        values = to_device(parameters[by_operation, layer], images.device)
        start = 0
        for operation, count in zip(operations, choice.bincount(minlength=len(operations)).tolist(), strict=False):
            if count:
                operation(images[start : start + count], values[start : start + count])
            start += count
    return images.index_select(0, to_device(lies_at, images.device))
