"""What tests of adaptation and of distillation share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest

from clzoo.data.collection import Images
from clzoo.data.parts import Parts, parts_of


@pytest.fixture
def mostly_copies() -> Callable[[Images], Parts]:
    """In the place of `parts_of`: copies of one image left 15 to train on."""

    def few(images: Images) -> Parts:
        parts = parts_of(images)
        return dataclasses.replace(parts, train=parts.train[:15])

    return few
