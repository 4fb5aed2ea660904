"""Resolves presets, YAML files and flags to one configuration; every error is one line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from fedsim.config.errors import one_line, option_paths, shown
from fedsim.config.machine import (
    MACHINE_SETTINGS,
    require_machine_settings,
    settings_file,
    without_machine_settings,
)
from fedsim.config.renamed import renamed, tell_renamed
from fedsim.config.run import NAMED_SECTIONS, EngineConfig, RunConfig, flatten
from fedsim.config.texts import text_kind
from fedsim.data.config import is_text
from fedsim.errors import FedsimError, nearest
from fedsim.federated.registry import declared, describe, load_strategy
from fedsim.plugins import PluginFile, allow, plugin_hash, plugin_of, require_allowed
from fedsim.reading import load_yaml, read_regular
from fedsim.schema import Config

Nested = dict[str, Any]
C = TypeVar("C", bound=Config)


def presets_folder() -> Path:
    """Return the folder of the presets: inside the installed package, or `configs/` of a source tree."""
    package = Path(__file__).parents[1]
    return package / "presets" if (package / "presets").is_dir() else package.parent / "configs"


def preset_names() -> dict[str, str]:
    """Return {preset name: its first comment line}."""
    return {
        path.stem: path.read_text(encoding="utf-8").split("\n")[0].lstrip("# ")
        for path in sorted(presets_folder().glob("*.yaml"))
    }


def read_yaml(path: Path) -> Nested:
    """Return the mapping in a YAML file.

    Raises
    ------
    FedsimError
        If the file cannot be read or does not contain a mapping.
    """
    try:
        content = load_yaml(read_regular(path).decode())
        if isinstance(content, dict):
            list(flatten(content))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is no text"
        raise FedsimError(f"{path}: cannot be read as a configuration ({reason}); give a YAML file") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        reason = " ".join(str(getattr(error, "problem", None) or error).split())
        raise FedsimError(f"{path}: {where}not valid YAML ({reason}); correct it") from None
    except (RecursionError, ValueError) as error:  # an alias to its own container; a date such as 2024-13-01
        raise FedsimError(f"{path}: not a configuration ({' '.join(str(error).split())}); correct it") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FedsimError(f"{path}: must hold `key: value` lines, got {shown(content)}")
    return content


def find_config(name_or_path: str) -> Nested:
    """Return the raw configuration of a preset, a YAML file or a run folder, without settings of the machine.

    Raises
    ------
    FedsimError
        If there is none, or the file contains settings that only the user of this machine may make.
    """
    given = Path(name_or_path)
    for path in (presets_folder() / f"{name_or_path}.yaml", given):
        if path.is_file():
            return _without_orders(path, read_yaml(path))
    if (given / "config.yaml").is_file():
        return recorded_config(given)
    names = preset_names()
    raise FedsimError(f"--config {name_or_path}: neither a file nor a preset; {nearest(name_or_path, names)}")


def recorded_config(run_folder: Path) -> Nested:
    """Return the configuration in a run folder, without settings of the machine, which it may not make."""
    return without_machine_settings(read_yaml(run_folder / "config.yaml"))


def user_settings() -> Nested:
    """Return the settings of this machine in the user's own file, by dotted key; empty if there is no file."""
    file = settings_file()
    if not file.is_file():
        return {}
    given = dict(flatten(read_yaml(file)))
    require_machine_settings(given, str(file))
    return given


def _without_orders(path: Path, content: Nested) -> Nested:
    # Files of older versions contain the defaults, which are harmless.
    default = dict(flatten(resolve().model_dump(mode="json")))
    for key, value in flatten(content):
        if key in MACHINE_SETTINGS and value != default[key]:
            raise FedsimError(
                f"{path}: {key} is a setting of this machine, which no configuration may make; give --set "
                f"{key}={shown(value)}, or put it into {settings_file()}"
            )
    return without_machine_settings(content)


def parse_override(text: str) -> tuple[str, Any]:
    """Return (dotted key, value) of `key.path=value`.

    The value is read as YAML, except for options that hold only text: `# rooms`, `10` and `no` are names of
    columns there, and quotes are allowed but not needed.
    """
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key.strip()):
        raise FedsimError(f"--set {text}: must have the form key.path=value, such as training.lr=0.1")
    kind = text_kind(key.strip())
    if kind == "text":
        return key.strip(), _text(value)
    if kind == "texts":
        return key.strip(), texts_in(value)
    try:
        return key.strip(), load_yaml(value)
    except (yaml.YAMLError, ValueError):
        raise FedsimError(f"--set {text}: the value is not valid YAML; quote it") from None


def _text(value: str) -> str | None:
    text = value.strip() or value
    if text in ("", "null", "~"):
        return None
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def texts_in(value: str) -> list[str]:
    """Return the parts of `[one, two]`, or the whole text as one part."""
    text = value.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return [one] if (one := _text(value)) is not None else []
    try:
        parts = yaml.load(text, yaml.BaseLoader)  # this loader reads every scalar as text
    except yaml.YAMLError:  # a # in it, for one
        parts = text[1:-1].split(",")
    return [part.strip() if isinstance(part, str) else str(part) for part in parts]


def set_key(target: Nested, key: str, value: Any) -> None:
    """Set a dotted key in nested mappings, in place. A new `name` removes the options of the old one."""
    *parents, last = key.split(".")
    path = []
    for parent in parents:
        path.append(parent)
        inner = target.get(parent)
        inner = {} if inner is None else inner
        if not isinstance(inner, dict):
            raise FedsimError(f"{key}: {'.'.join(path)} is the value {shown(inner)}, not a section")
        target[parent] = inner
        target = inner
    section = ".".join(parents)
    if last == "name" and section in NAMED_SECTIONS and target.get("name", NAMED_SECTIONS[section]) != value:
        target.clear()
    target[last] = value


def _apply(target: Nested, layer: Mapping[str, Any]) -> None:
    # Names first, so that the options of a section are set after its name.
    for key, value in sorted(flatten(layer), key=lambda item: not item[0].endswith(".name")):
        tell_renamed(key)
        set_key(target, *renamed(key, value))


def resolve(*layers: Mapping[str, Any]) -> RunConfig:
    """Return the configuration of the layers: later ones override earlier ones, and all override the method's defaults.

    A layer is a nested mapping, as in YAML, or one of dotted keys, as on the command line.

    Raises
    ------
    FedsimError
        One line with the key, the rule, the given value, and the nearest valid name.
    """
    raw: Nested = {"strategy": {"name": NAMED_SECTIONS["strategy"]}}
    for layer in layers:
        _apply(raw, layer)
    name = raw["strategy"].get("name") if isinstance(raw["strategy"], dict) else raw["strategy"]
    if not isinstance(name, str):
        raise FedsimError(f"strategy.name: must be a name, got {shown(name)}; {nearest('', describe('strategies'))}")
    method = load_strategy(name)
    merged: Nested = {}
    _apply(merged, _starting_values(method.run_defaults, raw))
    _apply(merged, raw)
    try:
        merged["strategy"] = method.config.model_validate(merged["strategy"])
    except ValidationError as error:
        raise FedsimError(one_line(error, method.config, "strategy", owner=name)) from None
    try:
        config = _with_plugins(RunConfig.model_validate(merged))
    except ValidationError as error:
        options = option_paths(method.config, "strategy.")
        raise FedsimError(one_line(error, RunConfig, besides=options)) from None
    _require_engine(config.engine.name)
    return config


_NOT_FOR_TEXTS = ("data.imbalance_factor", "model.norm")


def _starting_values(run_defaults: Mapping[str, object], raw: Nested) -> Mapping[str, object]:
    """Return what a method's runs start from: of a text no long tail, as it has one by nature, and no norm layers."""
    data = raw.get("data")
    if not (isinstance(data, dict) and is_text(str(data.get("name")))):
        return run_defaults
    return {key: value for key, value in run_defaults.items() if key not in _NOT_FOR_TEXTS}


def _require_engine(name: str) -> None:
    if name == EngineConfig().name or plugin_of(name) is not None:  # most runs need no list of engines
        return
    if name not in (known := declared("fedsim.engine", "engine")):
        raise FedsimError(f"engine.name: no such engine {name!r}; {nearest(name, known)}")


def allow_named(layer: Mapping[str, Any]) -> None:
    """Allow the plugin files named in a layer that comes from the user: flags, `--set`, or Python."""
    for key, value in flatten(layer):
        if key in ("strategy.name", "model.name", "data.name", "data.partition.name", "engine.name"):
            allow(value, key)
        if key == "metrics":
            for name in [value] if isinstance(value, str) else value or ():
                allow(name, key)


def _with_plugins(config: RunConfig) -> RunConfig:
    """Return the configuration with absolute paths and hashes of plugin files; refuse files that have changed."""
    known = {file.path: file for file in config.plugins}
    files: dict[Path, PluginFile] = {}

    def absolute(name: str, where: str) -> str:
        if (plugin := plugin_of(name)) is None:
            return name
        path, wanted = plugin
        require_allowed(path, where)
        if path in known:
            known[path].require_unchanged()
        else:
            known[path] = PluginFile(path=path, sha256=plugin_hash(path, where))
        files[path] = known[path]
        return f"{path}:{wanted}" if wanted else str(path)

    def section(part: C, where: str) -> C:
        name = absolute(before := str(part.name), f"{where}.name")  # type: ignore[attr-defined] # sections of NAMED
        return part if name == before else part.model_copy(update={"name": name})

    data = section(config.data, "data")
    cut = section(config.data.partition, "data.partition")
    changes: dict[str, Any] = {
        "strategy": section(config.strategy, "strategy"),
        "model": section(config.model, "model"),
        "engine": section(config.engine, "engine"),
        "data": data if cut is config.data.partition else data.model_copy(update={"partition": cut}),
        "metrics": tuple(absolute(name, "metrics") for name in config.metrics),
    }
    return config.model_copy(update={**changes, "plugins": tuple(files.values())})
