"""The base of every table of a recipe. It stands alone so that methods can describe their options with it."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A validated table: unknown keys, wrong types, infinity and NaN are errors; values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)
