"""Finding, reading and overriding recipe files; errors name the key and the nearest valid one."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError

from clzoo.assets import RECIPES
from clzoo.errors import ClzooError
from clzoo.files import read_bytes
from clzoo.methods import METHODS
from clzoo.overrides import apply_overrides
from clzoo.pretrain.backbone_names import contradiction
from clzoo.pretrain.recipe import Recipe
from clzoo.wording import cut, shown
from clzoo.yaml_text import LONGEST, parse_yaml


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
        values = parse_yaml(read_bytes(path, LONGEST).decode("utf-8"), str(path))
    except UnicodeDecodeError as error:
        raise ClzooError(f"{path} is not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ClzooError(f"{path} must hold a table with the keys {', '.join(Recipe.model_fields)}.")
    if (path.parent / "data.json").is_file():
        _forget_a_wrong_label(values)
    _let_the_backbone_follow(values, overrides)
    apply_overrides(values, overrides)
    try:
        return Recipe.model_validate(values)
    except ValidationError as error:
        lines = [_explain(values, problem) for problem in error.errors()]
        raise ClzooError(f"{path} is not a valid recipe:", lines) from error


def _forget_a_wrong_label(values: dict[str, Any]) -> None:
    """In the folder of a run: earlier versions kept a recipe's name for whatever backbone was set in its place."""
    backbone = values.get("backbone")
    if not isinstance(backbone, dict):
        return
    name, architecture, model_args = (backbone.get(key) for key in ("name", "architecture", "model_args"))
    if not (isinstance(name, str) and isinstance(architecture, str) and isinstance(model_args or {}, dict)):
        return
    if contradiction(name, architecture, model_args or {}):
        del backbone["name"]


def _let_the_backbone_follow(values: dict[str, Any], overrides: tuple[str, ...]) -> None:
    """An override of the backbone's name sets what the name stands for; one of what it is made of, the name."""
    backbone = values.get("backbone")
    if not isinstance(backbone, dict):
        return
    given = {override.partition("=")[0] for override in overrides}
    made_of = ("backbone.architecture", "backbone.model_args")
    changed = {key for key in given if key.startswith(made_of)}
    if "backbone.name" in given and not changed:
        for key in made_of:
            backbone.pop(key.removeprefix("backbone."), None)
    elif changed and "backbone.name" not in given:
        backbone.pop("name", None)


def _explain(values: dict[str, Any], problem: Any) -> str:
    location = [cut(str(part), 80) for part in problem["loc"]]
    if not location:  # of the recipe as a whole, whose parts do not go together: our own words
        return f"{cut(problem['msg'].removeprefix('Value error, '), 600)}."
    if location[0] == "method" and len(location) > 1:
        del location[1]  # pydantic puts the method's name there, which is no key of the file
    key = ".".join(location)
    if problem["type"] == "extra_forbidden":
        valid = list(_table_of(values, location[:-1]).model_fields)
        near = difflib.get_close_matches(location[-1], valid, n=1, cutoff=0.5)
        return f"unknown key {key!r}: " + (f"did you mean {near[0]!r}?" if near else f"valid are {', '.join(valid)}.")
    if problem["type"] == "missing":
        return f"missing key {key!r}."
    if problem["type"] == "value_error":  # our own words, which say what was found
        return f"{key}: {cut(problem['msg'].removeprefix('Value error, '), 600)}."
    return f"{key} is {shown(problem['input'])}: {cut(problem['msg'], 200).lower()}."


def _table_of(values: dict[str, Any], place: list[str]) -> type[BaseModel]:
    """The table whose keys are valid at a place, such as [], ["method"], ["views", "0"], ["data", "preprocessing"]."""
    table: type[BaseModel] = Recipe
    for key in place:
        if key == "method":
            table = METHODS[values["method"]["name"]].options
        elif key in table.model_fields:  # else a number in a list
            annotation: Any = table.model_fields[key].annotation
            table = (get_args(annotation) or (annotation,))[0]  # list[ViewGroup], Start | None, or the table itself
    return table
