"""The base of every table of a recipe. It stands alone so that methods can describe their options with it."""

from pydantic import BaseModel, ConfigDict


class Table(BaseModel):
    """A validated table: unknown keys and wrong types are errors, and values do not change afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
