"""Batched augmentations on tensors, CPU or GPU, with the same mathematics as torchvision's."""

from clzoo.augment.views import ViewPolicy, make_view

__all__ = ["ViewPolicy", "make_view"]
