"""A recipe: one YAML file that says everything about a pretraining run. Its tables and what follows from them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, ValidationInfo, field_validator, model_validator

from clzoo.augment import ViewPolicy
from clzoo.backbones import made_for
from clzoo.config import ModelConfig, Preprocessing
from clzoo.data.imbalance import check_subset
from clzoo.methods import MethodOptions
from clzoo.pretrain.backbone_names import contradiction, with_preset
from clzoo.schema import Table
from clzoo.zoo.entries import is_local

Share = Annotated[float, Field(ge=0, le=1)]
Pair = Annotated[tuple[float, float], Field(strict=False)]  # YAML has lists
StepAndEnd = Annotated[tuple[int, int], Field(strict=False)]  # YAML has lists
Triple = Annotated[tuple[float, float, float], Field(strict=False)]
Deviation = Annotated[float, Field(gt=0)]


class Backbone(Table):
    """timm's architecture and what differs from its defaults; `name` is its part of the zoo name.

    name: a preset that sets architecture and model_args, or what these two are called (clzoo.pretrain.backbone_names);
    left out, it is derived. A name that contradicts them is an error.
    batchnorm_groups: statistics over so many groups of the batch (one device's stand-in for shuffled BatchNorm).
    zero_init_last: whether a ResNet's residual branches start at zero; None: timm's default, true (torchvision: false).
    init: "mocov3" draws a ViT's weights as MoCo v3 does; None: timm's own.
    sincos_positions: fixed sine-cosine positions in a ViT; frozen: parameters that are not trained, by prefix.
    """

    name: str
    architecture: str
    model_args: dict[str, Any] = Field(default_factory=dict)
    global_pool: str = "avg"
    stem_stride: Literal[1, 2] | None = None
    stem_pool: bool = False
    batchnorm_groups: int = Field(1, ge=1)
    zero_init_last: bool | None = None
    init: Literal["mocov3"] | None = None
    sincos_positions: bool = False
    frozen: list[str] = Field(default_factory=list)

    @model_validator(mode="before")
    @classmethod
    def _name_sets_the_rest(cls, values: Any) -> Any:
        return with_preset(values)

    @model_validator(mode="after")
    def _name_says_the_truth(self) -> Backbone:
        problem = contradiction(self.name, self.architecture, self.model_args)
        if problem:
            raise ValueError(problem)
        return self


class Prepared(Table):
    """From a whole image to the encoder's input, where that does not follow from the views; see `Preprocessing`."""

    size: int = Field(gt=0)
    crop_pct: float = Field(gt=0, le=4)
    interpolation: Literal["bicubic", "bilinear"] = "bicubic"


class Data(Table):
    """Which images: `name` is the data set's id; `size` the side in pixels at which images are kept in memory.

    held_out: leave out what the rule of clzoo.data.parts holds out, as `clzoo adapt` does.
    flatten: draw images from crowded places less often (clzoo.pretrain.flattening); for a run that starts somewhere.
    preprocessing: of the encoder, with `mean` and `std`; None: as `Recipe.model_config_of` derives it.
    """

    name: str
    title: str
    size: int = Field(gt=0)
    mean: Triple
    std: Annotated[tuple[Deviation, Deviation, Deviation], Field(strict=False)]
    subset: str | None = None  # linear, exponential or longtail-R; see clzoo.data.imbalance
    held_out: bool = False
    flatten: bool = False
    preprocessing: Prepared | None = None

    @model_validator(mode="after")
    def _one_choice(self) -> Data:
        if self.subset is not None and self.held_out:
            raise ValueError(f"subset={self.subset} with held_out: images are chosen by one rule, not two")
        return self

    @field_validator("subset")
    @classmethod
    def _known_subset(cls, value: str | None) -> str | None:
        if value is not None:
            check_subset(value)
        return value


class ViewGroup(Table):
    """`count` views of one kind; see clzoo.augment.ViewPolicy. What is not named is off."""

    count: int = Field(1, ge=1)
    size: int = Field(gt=0)
    crop_scale: Pair
    flip: Share = 0.5
    jitter: Share = 0.0
    brightness: float = Field(0.0, ge=0)
    contrast: float = Field(0.0, ge=0)
    saturation: float = Field(0.0, ge=0)
    hue: float = Field(0.0, ge=0, le=0.5)
    grayscale: Share = 0.0
    downscale: Share = 0.0
    downscale_to: Pair = (0.25, 1.0)
    blur: Share = 0.0
    blur_sigma: Pair = (0.1, 2.0)
    solarize: Share = 0.0
    rand_augment: str | None = None
    erase: Share = 0.0

    @field_validator("crop_scale", "downscale_to")
    @classmethod
    def _shares_in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError(f"found {list(value)}, expected two shares in order: 0 < low <= high <= 1")
        return value

    @field_validator("blur_sigma")
    @classmethod
    def _widths_in_order(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1]:
            raise ValueError(f"found {list(value)}, expected two widths in order: 0 < low <= high, in pixels")
        return value

    @property
    def policy(self) -> ViewPolicy:
        return ViewPolicy(**self.model_dump(exclude={"count"}))


class Optimizer(Table):
    """`base_lr` is per 256 images, or the rate itself with `lr_scaling: none`; `clip_grad` bounds the gradient norm."""

    name: Literal["sgd", "lars", "adam", "adamw"]
    base_lr: float = Field(gt=0)
    lr_scaling: Literal["linear", "none"] = "linear"
    momentum: float = Field(0.9, ge=0, lt=1)  # SGD and LARS
    weight_decay: float = Field(ge=0)
    decay_norms_and_biases: bool
    clip_grad: float | None = Field(None, gt=0)


class Schedule(Table):
    """Length and learning-rate curve; `milestones` (epochs) belong to "steps", where each divides the rate by 10.

    epochs: a fraction ends between two epochs, as a subset needs that shall take the steps of the whole set.
    batch_size: images of one step over all processes. accumulate: steps whose gradients are averaged before the
    optimiser moves; each of them has its own negatives, and a run has a multiple of so many. towards_start: share of
    the weights that the run began with in those that it ends with (clzoo.pretrain.averaging); for a run that starts
    from an encoder. shortened: pairs of a step and a nearer end; from that step on, the rest of the curve is run
    through until that end (`position`).
    """

    epochs: float = Field(gt=0)
    batch_size: int = Field(ge=2)
    accumulate: int = Field(1, ge=1)
    warmup_epochs: float = Field(0, ge=0)
    decay: Literal["cosine", "steps"] = "cosine"
    milestones: list[int] = Field(default_factory=list)
    towards_start: float = Field(0, ge=0, lt=1)
    shortened: list[StepAndEnd] = Field(default_factory=list)

    @field_validator("epochs")
    @classmethod
    def _whole_numbers_stay_so(cls, value: float) -> float:
        return int(value) if value.is_integer() else value

    @field_validator("shortened")
    @classmethod
    def _ever_nearer(cls, value: list[tuple[int, int]]) -> list[tuple[int, int]]:
        ends = [end for _, end in value]
        steps = [step for step, _ in value]
        if any(not 0 < step < end for step, end in value) or ends != sorted(ends, reverse=True):
            raise ValueError(f"{value}: expected pairs of a step and a later end, each end nearer than the one before")
        if steps != sorted(steps):
            raise ValueError(f"{value}: the steps must grow")
        return value

    def planned_steps(self, per_epoch: int) -> int:
        """Of the curve, whether or not the run was shortened."""
        steps = max(1, round(self.epochs * per_epoch))
        return steps - steps % self.accumulate or steps

    def total_steps(self, per_epoch: int) -> int:
        """That are made."""
        planned = self.planned_steps(per_epoch)
        return min(planned, self.shortened[-1][1]) if self.shortened else planned

    def position(self, step: int, per_epoch: int) -> float:
        """Where on the planned curve a step is: itself, unless the run was shortened before it."""
        planned = self.planned_steps(per_epoch)
        at, since, speed = 0.0, 0, 1.0
        for decided, end in self.shortened:
            if step <= decided:
                break
            at += (decided - since) * speed
            since, speed = decided, (planned - at) / (end - decided)
        return at + (step - since) * speed


class Monitor(Table):
    """How often a run looks at itself, 0 for never: label-free measures every so many steps, k-NN every few epochs."""

    every_steps: int = Field(200, ge=0)
    knn_every_epochs: int = Field(0, ge=0)


class Start(Table):
    """The encoder whose weights a run starts from, by name and hash; the terms of its weights stay with the result.

    name: what `clzoo.load` takes. model: what cards call it. A run fills in what is left out (clzoo.pretrain.start).
    """

    name: str
    weights_sha256: str
    model: str = ""
    license: str = "not stated"
    license_note: str = ""


class Recipe(Table):
    """The whole file."""

    method: MethodOptions = Field(discriminator="name")
    backbone: Backbone
    data: Data
    views: list[ViewGroup] = Field(min_length=1)
    optimizer: Optimizer
    schedule: Schedule
    monitor: Monitor = Field(default_factory=lambda: Monitor.model_validate({}))
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of forward and backward; auto: bf16 where CUDA has it
    compile: bool = False  # torch.compile encoders and heads; faster where a C++ compiler or a GPU is at hand
    gradient_checkpointing: bool = False  # keep each block's input alone and compute it twice: for large batches
    shard_weights: bool = False  # over the processes of torchrun (FSDP2): for ViT-B and larger
    seed: int = Field(0, ge=0, lt=2**32)  # torch draws by the lowest 32 bits
    start: Start | None = None  # None: random weights, or what --init names, which the run then records here

    @field_validator("shard_weights")
    @classmethod
    def _shared_by_torchs_optimisers(cls, value: bool, info: ValidationInfo) -> bool:
        optimizer = info.data.get("optimizer")
        if value and optimizer is not None and optimizer.name == "lars":
            raise ValueError("it takes sgd, adam or adamw, not lars, which needs whole layers")
        if value and info.data.get("compile"):
            raise ValueError("it excludes compile. Type: --set compile=false")
        schedule = info.data.get("schedule")
        if value and schedule is not None and schedule.towards_start:
            raise ValueError("it excludes schedule.towards_start. Type: --set shard_weights=false")
        return value

    @field_validator("gradient_checkpointing")
    @classmethod
    def _compiled_or_computed_twice(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("compile"):
            raise ValueError("it excludes compile. Type: --set compile=false")
        return value

    @property
    def name(self) -> str:
        """The recipe's part of file and run names: <method>_<data>."""
        return f"{self.method.name}_{self.data.name}"

    @property
    def learning_rate(self) -> float:
        s = self.schedule
        share = s.batch_size * s.accumulate / 256 if self.optimizer.lr_scaling == "linear" else 1.0
        return self.optimizer.base_lr * share

    def view_policies(self) -> list[ViewPolicy]:
        """One policy per view, in the order in which the method gets the views."""
        return [group.policy for group in self.views for _ in range(group.count)]

    def model_config_of(self, num_features: int) -> ModelConfig:
        """How the trained backbone is used: the data's own normalisation, the whole image at the size of the data.

        Views may be smaller: objects are larger in a random crop than in the whole image (Touvron et al. 2019). With
        views of 224 px the shorter side is resized to 256 and the centre cut out, as everywhere on ImageNet. A network
        made for one size (`img_size`) gets that.
        """
        view = self.views[0].size
        size = made_for(self.backbone.model_args) or (view if view >= 224 else self.data.size)
        shape = self.data.preprocessing or Prepared(size=size, crop_pct=0.875 if size >= 224 else 1.0)
        return ModelConfig(
            name=f"{self.method.name}-{self.backbone.name}-{self.data.name}",
            architecture=self.backbone.architecture,
            num_features=num_features,
            method=self.method.name,
            backbone=self.backbone.name,
            data=self.data.name,
            global_pool=self.backbone.global_pool,
            model_args=self.backbone.model_args,
            stem_stride=self.backbone.stem_stride,
            stem_pool=self.backbone.stem_pool,
            preprocessing=Preprocessing(**shape.model_dump(), mean=self.data.mean, std=self.data.std),
            license="apache-2.0" if self.start is None else self.start.license,
            license_note="" if self.start is None else self.start.license_note,
            derived_from="" if self.start is None else self.start.model,
            recipe="recipe.yaml",  # it travels with the entry
        )

    def for_others(self) -> Recipe:
        """As it is published: a start that lies on this machine is called by its name, not by its place."""
        if self.start is None or not is_local(self.start.name):
            return self
        start = self.start.model_copy(update={"name": self.start.model or Path(self.start.name).name})
        return self.model_copy(update={"start": start})

    def to_yaml(self) -> str:
        """The resolved recipe, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)
