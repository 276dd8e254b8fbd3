"""A recipe: one YAML file that says everything about a pretraining run, validated before anything starts."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, Field, ValidationError

from clzoo.assets import RECIPES
from clzoo.config import ModelConfig, Preprocessing
from clzoo.errors import ClzooError
from clzoo.methods import MethodOptions
from clzoo.schema import Table


class _Yaml(yaml.SafeLoader):
    """YAML 1.1 takes 1e-4 for a word; people mean the number."""


_Yaml.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)

Share = Annotated[float, Field(ge=0, le=1)]
Triple = Annotated[tuple[float, float, float], Field(strict=False)]  # YAML has lists


class Backbone(Table):
    """timm's architecture and what differs from its defaults; `name` is its part of the zoo name."""

    name: str
    architecture: str
    model_args: dict[str, Any] = Field(default_factory=dict)
    global_pool: str = "avg"
    stem_stride: Literal[1, 2] | None = None


class Data(Table):
    """Which images: `name` is the data set's id; `size` the side in pixels at which images are kept in memory."""

    name: str
    title: str
    size: int = Field(gt=0)
    mean: Triple
    std: Triple


class Views(Table):
    """Augmentations; see clzoo.augment.ViewPolicy."""

    size: int = Field(gt=0)
    crop_scale: Annotated[tuple[float, float], Field(strict=False)]
    flip: Share
    brightness: float = Field(ge=0)
    contrast: float = Field(ge=0)
    saturation: float = Field(ge=0)
    hue: float = Field(ge=0, le=0.5)
    jitter: Share
    grayscale: Share


class Optimizer(Table):
    """`base_lr` is per 256 images: the learning rate is base_lr * batch_size / 256."""

    name: Literal["sgd", "lars"]
    base_lr: float = Field(gt=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(ge=0)
    decay_norms_and_biases: bool


class Schedule(Table):
    """Length and learning-rate curve; `milestones` (epochs) belong to "steps", where each divides the rate by 10."""

    epochs: int = Field(gt=0)
    batch_size: int = Field(ge=2)
    warmup_epochs: float = Field(0, ge=0)
    decay: Literal["cosine", "steps"] = "cosine"
    milestones: list[int] = Field(default_factory=list)


class Recipe(Table):
    """The whole file."""

    method: MethodOptions = Field(discriminator="name")
    backbone: Backbone
    data: Data
    views: Views
    optimizer: Optimizer
    schedule: Schedule
    compile: bool = False  # torch.compile the backbone; faster where a C++ compiler or a GPU is at hand
    seed: int = Field(0, ge=0)

    @property
    def name(self) -> str:
        """The recipe's part of file and run names: <method>_<data>."""
        return f"{self.method.name}_{self.data.name}"

    @property
    def learning_rate(self) -> float:
        return self.optimizer.base_lr * self.schedule.batch_size / 256

    def model_config_of(self, num_features: int) -> ModelConfig:
        """How the trained backbone is used: the data's own normalisation, the whole image at the views' size."""
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
            preprocessing=Preprocessing(
                size=self.views.size, crop_pct=1.0, interpolation="bicubic", mean=self.data.mean, std=self.data.std
            ),
            license="apache-2.0",
            recipe="recipe.yaml",  # it travels with the entry
        )

    def to_yaml(self) -> str:
        """The resolved recipe, every key written out."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def find_recipe(name_or_path: str) -> Path:
    """A path that has a separator or ends in .yaml, else a name among the shipped recipes.

    Raises:
        ClzooError: no such file or name, with the closest names.
    """
    path = Path(name_or_path)
    if path.suffix in (".yaml", ".yml") or len(path.parts) > 1:
        if path.is_file():
            return path
        if (shipped := RECIPES / path.name).is_file() and path.parts[:-1] == ("recipes",):
            return shipped  # `recipes/NAME.yaml` as the documentation writes it, from any folder
        raise ClzooError(f"{path} does not exist. Shipped recipes: {', '.join(recipe_names())}.")
    if (RECIPES / f"{name_or_path}.yaml").is_file():
        return RECIPES / f"{name_or_path}.yaml"
    near = difflib.get_close_matches(name_or_path, recipe_names(), n=3) or recipe_names()
    raise ClzooError(f"there is no recipe {name_or_path!r}. Did you mean: {', '.join(near)}? Type: clzoo pretrain NAME")


def recipe_names() -> list[str]:
    """Names of the shipped recipes, sorted."""
    return sorted(path.stem for path in RECIPES.glob("*.yaml"))


def load_recipe(path: Path, overrides: tuple[str, ...] = ()) -> Recipe:
    """Read and validate a recipe.

    Args:
        overrides: "section.key=value", the value written as YAML.

    Raises:
        ClzooError: not YAML, or one line per wrong key that names it and the nearest valid one.
    """
    try:
        values = yaml.load(path.read_text(encoding="utf-8"), Loader=_Yaml)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ClzooError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ClzooError(f"{path} must hold a table with the keys {', '.join(Recipe.model_fields)}.")
    for override in overrides:
        _override(values, override)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = "\n".join(f"  {_explain(values, problem)}" for problem in error.errors())
        raise ClzooError(f"{path} is not a valid recipe:\n{lines}") from error


def _override(values: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ClzooError(f"--set {override!r}: expected section.key=value, for example --set schedule.epochs=10")
    *sections, last = key.split(".")
    table = values
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ClzooError(f"--set {override!r}: {section!r} is not a table of the recipe.")
    table[last] = yaml.load(text, Loader=_Yaml)


def _explain(values: dict[str, Any], problem: Any) -> str:
    location = [str(part) for part in problem["loc"]]
    if location[0] == "method" and len(location) > 2:
        del location[1]  # pydantic puts the method's name there, which is no key of the file
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        valid = list(_section(values, location[0]).model_fields) if len(location) > 1 else list(Recipe.model_fields)
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        return f"unknown key {key!r}: " + (f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}.")
    if problem["type"] == "missing":
        return f"missing key {key!r}."
    return f"{key} is {problem['input']!r}: {problem['msg'].lower()}."


def _section(values: dict[str, Any], name: str) -> type[BaseModel]:
    if name == "method":
        tables = MethodOptions.__args__
        return next(t for t in tables if values["method"]["name"] in t.model_fields["name"].annotation.__args__)
    table: type[BaseModel] = Recipe.model_fields[name].annotation  # type: ignore[assignment]
    return table
