"""Batched augmentations on tensors, CPU or GPU, with the same mathematics as torchvision's."""

from clzoo.augment.views import ViewPolicy, crop_on_host, finish_view, make_view

__all__ = ["ViewPolicy", "crop_on_host", "finish_view", "make_view"]
