"""Turns pydantic's errors into one line: the dotted key, the rule, the given value, and a remedy."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from fedsim.errors import nearest

_RULES = {
    "missing": "must be given",
    "greater_than": "must be greater than {gt}",
    "greater_than_equal": "must be at least {ge}",
    "less_than": "must be less than {lt}",
    "less_than_equal": "must be at most {le}",
    "finite_number": "must be a finite number",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number of fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "string_type": "must be text; quote it",
    "path_type": "must be a path",
    "list_type": "must be a list",
    "tuple_type": "must be a list",
    "too_short": "must have {min_length} or more entries",
}
_NO_SECTION = ("model_type", "model_attributes_type", "dict_type")
_SHOWN_CHARACTERS = 60


def one_line(
    error: ValidationError, root: type[BaseModel], *prefix: str, owner: str = "", besides: Iterable[str] = ()
) -> str:
    """Return the first error of a configuration of type `root`, as one line.

    Parameters
    ----------
    error
        The error of pydantic.
    root
        The validated model.
    prefix
        The dotted path of `root` in the whole configuration.
    owner
        The method, or other part, that has these options.
    besides
        Dotted keys of a whole configuration that are not in `root`.
    """
    first = error.errors(include_url=False)[0]
    path, classes = _locate(first["loc"], root)
    where = ".".join([*prefix, *path])
    kind, given = first["type"], first["input"]
    if kind == "extra_forbidden":
        whole = [] if prefix else [*option_paths(root), *besides]
        meant = [] if classes != [root] else _elsewhere(path[-1], given, whole)
        if meant:
            return f"{where}: no such key; did you mean {' or '.join(map(repr, meant))}?"
        return f"{where}: {_unknown(path[-1], classes, owner)}"
    if kind in _NO_SECTION or (kind == "union_tag_invalid" and not isinstance(given, dict | BaseModel)):
        keys = [f"{where}.{name}" for model in classes for name in model.model_fields]
        such = f", such as {keys[0]}" if keys else ""
        return f"{where}: is a section, so it cannot be {shown(given)}; set its keys{such}"
    if isinstance(given, dict) and kind in {*_RULES, "literal_error"}:
        return f"{where}: is a value, not a section, so it has no key {next(iter(given), '')!r}"
    message = _message(first)
    told = kind == "literal_error" or (isinstance(given, str) and repr(given) in message)
    if not where or isinstance(given, dict | BaseModel) or told:
        return f"{where}: {message}" if where else message  # the message of such a rule names its keys
    rule, semicolon, remedy = message.partition("; ")
    return f"{where}: {rule}, got {shown(given)}{semicolon}{remedy}"


def shown(value: object) -> str:
    """Return a value in the form for error lines: as YAML, and shortened."""
    text = {None: "null", True: "true", False: "false"}.get(value) if value is None or isinstance(value, bool) else None
    text = text or (repr(value) if isinstance(value, str | float | list | dict) else str(value))
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def option_paths(root: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Yield the dotted path of every option, those of all members of a union included; a path may come twice."""
    for name, field in root.model_fields.items():
        inner = list(models_in(field.annotation))
        if not inner:
            yield f"{prefix}{name}"
        for model in inner:
            yield from option_paths(model, f"{prefix}{name}.")


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """Yield the models that a type consists of: itself, or members of a union."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def _locate(loc: tuple[int | str, ...], root: type[BaseModel]) -> tuple[list[str], list[type[BaseModel]]]:
    """Return the keys on the path to an error, and the models that contain, or should contain, the last key."""
    classes, path = [root], []
    for part in loc:
        fields = [c.model_fields[part] for c in classes if isinstance(part, str) and part in c.model_fields]
        tagged = [c for c in classes if "name" in c.model_fields and c.model_fields["name"].default == part]
        if not fields and tagged:
            classes = tagged  # a tag that pydantic inserts for the member of a union; it is not a key
            continue
        path.append(str(part))
        classes = [model for field in fields for model in models_in(field.annotation)] or classes
    return path, classes


def _elsewhere(key: str, given: object, whole: Iterable[str]) -> list[str]:
    """Return the keys of a whole configuration whose end is this key, or one of the keys below it."""
    known = sorted(set(whole))
    below = key
    while isinstance(given, dict) and given:
        name, given = next(iter(given.items()))
        below = f"{below}.{name}"
    ends = [path for path in known if path.endswith(f".{below}")] or [
        path for path in known if path.endswith(f".{key}")
    ]
    sections = {path.rpartition(f".{key}.")[0] for path in known if f".{key}." in path}
    return ends or [f"{section}.{key}" for section in sorted(sections)]


def _unknown(key: str, classes: list[type[BaseModel]], owner: str) -> str:
    valid = {name for model in classes for name in model.model_fields}
    if owner and valid == {"name"}:
        return f"no such key; {owner} has no options"
    return f"no such key{f' of {owner}' if owner else ''}; {nearest(key, valid - ({'name'} if owner else set()))}"


def _message(first: ErrorDetails) -> str:
    context = first.get("ctx", {})
    if first["type"] == "literal_error":
        valid = re.findall(r"'([^']*)'", str(context["expected"]))
        return f"no such choice, got {shown(first['input'])}; {nearest(str(first['input']), valid)}"
    if first["type"] in _RULES:
        return _RULES[first["type"]].format(**{name: _brief(limit) for name, limit in context.items()})
    message = first["msg"].removeprefix("Value error, ")
    return f"{message[0].lower()}{message[1:]}"


def _brief(limit: object) -> object:
    return int(limit) if isinstance(limit, float) and limit.is_integer() else limit
