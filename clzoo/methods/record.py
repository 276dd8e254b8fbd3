"""What clzoo knows of a method: one record, `METHOD`, at the end of the method's file."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, get_args

from torch import nn

from clzoo.methods.batch import TWO_VIEWS, Needs
from clzoo.schema import Table


@dataclass(frozen=True)
class Method:
    """A method and how it is called, built and counted.

    Attributes:
        title: how cards call it.
        arxiv: id of the paper.
        options: the table `method:` of its recipes; `name` in it is the method's.
        build: (backbone, feature_dim, options) -> module whose forward is the loss of a Batch; with `classes` it is
            also given the keyword `classes`, how many the data have.
        needs: options -> what it needs of a recipe; `labels` in it is set by the record.
        forwards: (options, views) -> how often one image goes through an encoder, or its momentum copy, in a step with
            so many views.
        labels: whether it learns from class labels.
        classes: whether `build` has to know how many classes there are.
        implementation: what clzoo's own training of it is, for cards.
    """

    title: str
    arxiv: str
    options: type[Table]
    build: Callable[..., nn.Module]
    needs: Callable[[Any], Needs] = lambda options: TWO_VIEWS
    forwards: Callable[[Any, int], int] = lambda options, views: views
    labels: bool = False
    classes: bool = False
    implementation: str = "clzoo's implementation of the published method"

    @property
    def name(self) -> str:
        """As in recipes and in names of models."""
        (name,) = get_args(self.options.model_fields["name"].annotation)
        return str(name)

    def needs_of(self, options: Any) -> Needs:
        """What the method needs with these options."""
        return dataclasses.replace(self.needs(options), labels=self.labels)
