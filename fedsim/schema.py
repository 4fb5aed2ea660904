"""The base of every configuration model."""

from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, model_validator


class Config(BaseModel):
    """A frozen set of options; unknown keys, wrong types and non-finite numbers are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)

    @model_validator(mode="before")
    @classmethod
    def _refuse_true_for_a_number(cls, values: object) -> object:
        # pydantic reads true as 1, so `epochs: yes` would train one epoch. It does refuse the word.
        if not isinstance(values, Mapping):
            return values
        return {name: str(value).lower() if _misread(cls, name, value) else value for name, value in values.items()}


def _misread(model: type[BaseModel], name: str, value: object) -> bool:
    field = model.model_fields.get(name)
    types = set(_types(field.annotation)) if field and isinstance(value, bool) else set()
    return bool(types & {int, float}) and bool not in types


def _types(annotation: Any) -> Iterator[Any]:
    if isinstance(annotation, type):
        yield annotation
    for argument in get_args(annotation):
        yield from _types(argument)
