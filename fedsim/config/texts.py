"""Finds the options that hold text; their values are not parsed."""

from __future__ import annotations

from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

from pydantic import BaseModel

from fedsim.config.run import RunConfig


def text_kind(key: str) -> Literal["text", "texts", "other"]:
    """Return whether the option at a dotted key holds a text, a list of texts, or something else."""
    kinds: set[type[BaseModel]] = {RunConfig}
    for part in key.split("."):
        fields = [model.model_fields[part] for model in kinds if part in model.model_fields]
        if not fields:
            return "other"
        leaves = {leaf for field in fields for leaf in _leaves(field.annotation)}
        kinds = {leaf for leaf in leaves if isinstance(leaf, type) and issubclass(leaf, BaseModel)}
    leaves -= {NoneType}
    if leaves == {tuple}:
        inner = {leaf for field in fields for leaf in _leaves(field.annotation, inside=True)} - {NoneType, Ellipsis}
        return "texts" if inner == {str} else "other"
    return "text" if leaves and leaves <= {str, Path} else "other"


def _leaves(annotation: Any, inside: bool = False) -> set[Any]:
    """Return the possible types of a value; of a tuple `{tuple}`, or the types of its items if `inside`."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return {type(argument) for argument in arguments}
    if origin is Annotated:
        return _leaves(arguments[0], inside)
    if origin is tuple and not inside:
        return {tuple}
    if not arguments:
        return {annotation}
    return {leaf for argument in arguments for leaf in _leaves(argument, inside)}
