"""Describes options for users: name, default, allowed values, and meaning.

Everything comes from the models of the configuration: their fields, bounds and docstrings.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, Union, get_args, get_origin

import annotated_types as at
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from fedsim.config.errors import models_in, shown
from fedsim.config.run import RunConfig, flatten
from fedsim.errors import FedsimError, nearest
from fedsim.federated.registry import describe, load_strategy
from fedsim.models.config import MODELS, ModelConfig

_FILLED_IN = {"plugins", "start_sha256", "model.widths"}
"""Options that a run fills in and that users do not set."""
_PLAIN = {bool: "true or false", int: "whole number", float: "number", str: "text", Path: "path"}


class Option(NamedTuple):
    """One option."""

    key: str
    """Dotted key, as for `--set`."""
    default: str
    """The default as YAML; "" if a value is required."""
    allowed: str
    summary: str
    """Description in one line."""


@dataclass(frozen=True)
class Topic:
    """A group of options."""

    title: str
    summary: str
    options: Sequence[Option] = ()
    sections: Sequence[tuple[str, str]] = ()
    """Groups below it: the arguments of `fedsim options`, and their descriptions."""
    starts_from: Sequence[tuple[str, str]] = ()
    """Options outside of it for which the method has another default."""


def options_of(model: type[BaseModel], prefix: str = "") -> list[Option]:
    """Return a model's own options, without its `name` and its sections; `prefix` is put before their keys."""
    return [
        Option(f"{prefix}{name}", _default(field), _allowed(field.annotation, field.metadata), _words(field))
        for name, field in model.model_fields.items()
        if not _tells_kind(prefix, name, field) and f"{prefix}{name}" not in _FILLED_IN and not _is_section(field)
    ]


def all_options_of(model: type[BaseModel], prefix: str) -> list[Option]:
    """Return a method's options, including those of its sections."""
    found = options_of(model, prefix)
    for name, field in model.model_fields.items():
        for inner in models_in(field.annotation):
            found += all_options_of(inner, f"{prefix}{name}.")
    return found


def topic(words: Sequence[str]) -> Topic:
    """Return the topic for arguments of `fedsim options`: `strategy fedprox`, `training`, `partition dirichlet`.

    Raises
    ------
    FedsimError
        If there is no such section, or nothing of that name in it.
    """
    if not words:
        return _section("", RunConfig)
    first, *rest = words
    if len(rest) > 1:
        raise FedsimError(f"options {' '.join(words)}: give a section and a name, such as: strategy fedprox")
    name = rest[0] if rest else None
    if first == "strategy":
        return _strategy(name)
    if first == "model" and name is not None:
        return _model(name)
    sections = dict(_sections(RunConfig))
    found = [path for path in sections if path == first] or [p for p in sections if p.endswith(f".{first}")]
    if not found:
        known = [*sections, "strategy"]
        raise FedsimError(f"options {first}: no such section; {nearest(first, known)}")
    path = found[0]
    members = sections[path]
    if name is None:
        return _section(path, members[0]) if len(members) == 1 else _members(path, members)
    by_name = {str(member.model_fields["name"].default): member for member in members if "name" in member.model_fields}
    if name not in by_name:
        raise FedsimError(f"options {path} {name}: no such name; {nearest(name, by_name)}")
    return _named(path, name, by_name[name])


def method_topic(kind: str, name: str, config: type[BaseModel], summary: str) -> Topic:
    """Return the options of a method that is not a strategy, with the keys for `--set` of its command."""
    return Topic(f"{kind} {name}", summary, all_options_of(config, f"{name}."))


def _section(path: str, model: type[BaseModel]) -> Topic:
    prefix = f"{path}." if path else ""
    below = [
        (f"{prefix}{name}", _words(field) or _first_line(next(models_in(field.annotation))))
        for name, field in model.model_fields.items()
        if _is_section(field) and f"{prefix}{name}" not in _FILLED_IN
    ]
    options = options_of(model, prefix)
    if path == "model":
        options = [_with_takers(option) for option in options]
    return Topic(path or "a run", _first_line(model), options, below)


def _members(path: str, members: Sequence[type[BaseModel]]) -> Topic:
    names = [(f"{path} {member.model_fields['name'].default}", _first_line(member)) for member in members]
    return Topic(path, "One of these, by its name.", sections=names)


def _named(path: str, name: str, model: type[BaseModel]) -> Topic:
    return Topic(f"{path} {name}", _first_line(model), options_of(model, f"{path}."))


def _strategy(name: str | None) -> Topic:
    known = {method: summary for method, (_, summary) in describe("strategies").items()}
    if name is None:
        return Topic(
            "strategy", "One of these, by its name.", sections=[(f"strategy {n}", s) for n, s in known.items()]
        )
    method = load_strategy(name)
    starts = [(key, shown(value).strip("'")) for key, value in flatten(method.run_defaults)]
    summary = known.get(name) or _first_line(method.config)
    return Topic(f"strategy {name}", summary, all_options_of(method.config, "strategy."), starts_from=starts)


def _model(name: str) -> Topic:
    config = ModelConfig(name=name)
    taken = {*config.entry.options, *(["norm"] if len(config.entry.norms) > 1 else [])}
    options = [option for option in options_of(ModelConfig, "model.") if option.key.removeprefix("model.") in taken]
    norms = " | ".join(config.entry.norms)
    options = [option._replace(allowed=norms) if option.key == "model.norm" else option for option in options]
    return Topic(f"model {name}", f"{config.entry.description}.", options)


def _with_takers(option: Option) -> Option:
    name = option.key.removeprefix("model.")
    takers = [model for model, entry in MODELS.items() if name in entry.options]
    return option._replace(summary=f"{option.summary} Of: {', '.join(takers)}.") if takers else option


def _sections(model: type[BaseModel], prefix: str = "") -> Iterator[tuple[str, list[type[BaseModel]]]]:
    for name, field in model.model_fields.items():
        path, members = f"{prefix}{name}", list(models_in(field.annotation))
        if members and path not in _FILLED_IN and path != "strategy":
            yield path, members
            for member in members:
                yield from _sections(member, f"{path}.")


def _tells_kind(prefix: str, name: str, field: FieldInfo) -> bool:
    one_word = get_origin(field.annotation) is Literal and len(get_args(field.annotation)) == 1
    return name == "name" and bool(prefix) and (field.is_required() or one_word)


def _is_section(field: FieldInfo) -> bool:
    return any(True for _ in models_in(field.annotation))


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ").strip()


def _words(field: FieldInfo) -> str:
    return " ".join((field.description or "").split())


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return ""
    value = field.get_default(call_default_factory=True, validated_data={})
    return shown(list(value) if isinstance(value, tuple) else value).strip("'")


def _allowed(annotation: Any, metadata: Sequence[Any] = ()) -> str:
    origin, arguments = get_origin(annotation), get_args(annotation)
    if hasattr(annotation, "__metadata__"):  # Annotated
        return _allowed(arguments[0], annotation.__metadata__)
    if origin is Literal:
        return " | ".join(str(one) for one in arguments)
    if origin in (Union, types.UnionType):
        return " or ".join(_allowed(one, metadata) for one in arguments if one is not type(None))
    if origin is tuple and Ellipsis not in arguments:
        return f"[{', '.join(map(_allowed, arguments))}]"
    if origin in (tuple, list):
        return f"list of {_allowed(arguments[0]).replace('number', 'numbers', 1)}"
    if origin is dict:
        return f"{{name: {_allowed(arguments[1])}}}"
    return f"{_PLAIN.get(annotation, 'text')}{_bounds(_flat(metadata)) if annotation in (int, float) else ''}"


def _flat(metadata: Sequence[Any]) -> Iterator[Any]:
    """Yield constraints; pydantic keeps those inside of a union in a field's own information."""
    for one in metadata:
        yield from _flat(one.metadata) if isinstance(one, FieldInfo) else (one,)


def _bounds(metadata: Iterator[Any]) -> str:
    low = high = ""
    for one in metadata:
        if isinstance(one, at.Ge | at.Gt):
            low = f" {'>=' if isinstance(one, at.Ge) else '>'} {_brief(getattr(one, 'ge', getattr(one, 'gt', 0)))}"
        if isinstance(one, at.Le | at.Lt):
            high = f" {'<=' if isinstance(one, at.Le) else '<'} {_brief(getattr(one, 'le', getattr(one, 'lt', 0)))}"
    return f"{low},{high}" if low and high else low or high


def _brief(limit: Any) -> str:
    return f"{limit:g}".replace("e+0", "e")
