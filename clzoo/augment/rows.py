"""Operations on some rows of a batch.

Which rows is decided on the host, where the random numbers are drawn: a device is never asked for the size of a group,
so that its queue of work is never waited for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from clzoo.device import to_device

Operation = Callable[..., torch.Tensor]


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
    images: torch.Tensor, chosen: torch.Tensor, operations: Sequence[Operation], parameters: torch.Tensor
) -> torch.Tensor:
    """Layer after layer, each sample through its own operation.

    Every layer sorts the batch by operation, so that each group is one slice and changes in place.

    Args:
        images: (B, ...).
        chosen: (B, layers) int64, on the host: the operation of each sample; len(operations) for none.
        operations: each takes (images, parameter), of n rows, and changes the images in place.
        parameters: (B, layers), on the host.

    Returns:
        (B, ...) in the order that came in, a copy.
    """
    layers, kinds = chosen.shape[1], len(operations) + 1
    counts = (chosen + kinds * torch.arange(layers)).flatten().bincount(minlength=layers * kinds).view(layers, kinds)
    by_operation = chosen.argsort(dim=0, stable=True)  # column l: the samples in the order of layer l
    lies_at = by_operation.argsort(dim=0)  # and where each sample lies in that order
    # From the order that came in to the first layer's, from that to the second's ... and back to the first.
    moves = torch.cat([by_operation[:, :1], lies_at[:, :-1].gather(0, by_operation[:, 1:]), lies_at[:, -1:]], dim=1)
    moves = to_device(moves.T.contiguous(), images.device)  # (layers + 1, B)
    values = to_device(parameters.gather(0, by_operation).T.contiguous(), images.device)  # (layers, B)
    for layer, sizes in enumerate(counts.tolist()):
        images = images.index_select(0, moves[layer])
        groups = zip(operations, images.split(sizes), values[layer].split(sizes), strict=False)  # the last has none
        for operation, group, value in groups:
            if len(group):
                operation(group, value)
    return images.index_select(0, moves[layers])
