"""The configuration of a run: one YAML file, flags over it, every mistake told in one line."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import BaseModel, Field, SerializeAsAny, ValidationError, field_validator, model_validator

from fedsim.data.config import DataConfig
from fedsim.errors import FedsimError, nearest
from fedsim.models.config import ModelConfig
from fedsim.registry import StrategyConfig, describe, load_strategy
from fedsim.schema import Config

Nested = dict[str, Any]


class TrainingConfig(Config):
    """The local work of a client in one round."""

    epochs: int = Field(1, ge=1)
    """Passes over the client's own data."""
    batch_size: int = Field(10, ge=1)
    """Samples per step; the last batch of an epoch may be smaller."""
    optimizer: Literal["sgd", "adam"] = "sgd"
    """Started afresh in every round."""
    lr: float = Field(0.05, gt=0)
    """Learning rate."""
    momentum: float = Field(0.0, ge=0, lt=1)
    """Of SGD."""
    weight_decay: float = Field(0.0, ge=0)
    """L2 penalty, added to the gradient."""
    clip_norm: float | None = Field(None, gt=0)
    """Largest norm of a client's gradient in one step; none by default."""
    cohort: Literal["auto", "sequential", "vectorized"] = "auto"
    """Train a chunk's clients one after another, or all at once; auto measures both and records its choice."""
    chunk: int | None = Field(None, ge=1)
    """Clients per chunk; by default 50 when vectorized, 5 when sequential. It fixes the order of all sums."""


class EngineConfig(Config):
    """Where clients run. None of it changes a result."""

    name: Literal["auto", "inprocess", "ray"] = "auto"
    """inprocess: in this process; ray: a pool of Ray actors; auto: inprocess unless Ray can help."""
    device: str = "auto"
    """auto (a GPU if there is one), cpu, cuda or cuda:N."""
    threads: int = Field(1, ge=1)
    """CPU threads of torch per worker."""
    num_workers: int | None = Field(None, ge=1)
    """Ray actors; by default as many as fit the machine."""
    cpus_per_worker: float = Field(1.0, gt=0)
    """CPUs reserved for each Ray actor."""
    gpus_per_worker: float = Field(0.0, ge=0)
    """GPUs reserved for each Ray actor; a fraction lets actors share one."""
    ray_address: str | None = None
    """Address of a Ray cluster to join; by default a local Ray is started."""
    dashboard: bool = False
    """Serve Ray's dashboard on 127.0.0.1."""
    dashboard_port: int = Field(8265, ge=1, le=65535)
    """Port of the dashboard."""
    retries: int = Field(2, ge=0)
    """How often a chunk is tried again when its Ray actor dies."""


class FaultsConfig(Config):
    """Failures to inject, drawn per (round, client); all zero by default."""

    dropout: float = Field(0.0, ge=0, le=1)
    """Share of clients that never answer."""
    error: float = Field(0.0, ge=0, le=1)
    """Share of clients that raise."""
    nan: float = Field(0.0, ge=0, le=1)
    """Share of clients whose update is not a number."""

    @model_validator(mode="after")
    def _shares(self) -> FaultsConfig:
        if self.dropout + self.error + self.nan > 1:
            raise ValueError("dropout, error and nan are shares of the same clients: their sum must be at most 1")
        return self


Cohort = Annotated[int | str | None, Field(union_mode="left_to_right")]


class RunConfig(Config):
    """A whole run. The file that a run folder keeps is one of these, and reruns the run."""

    name: str | None = None
    """Name of the run folder; by default strategy-dataset-time."""
    out: Path = Path("runs")
    """Folder that holds run folders."""
    seed: int = Field(0, ge=0)
    """Seed of every random draw."""
    rounds: int = Field(20, ge=1)
    """Federated rounds."""
    clients: int = Field(20, ge=1)
    """Registered clients."""
    cohort: Cohort = None
    """Clients sampled in a round: a number, a share such as 30%, or all by default."""
    min_replies: int = Field(1, ge=1)
    """Fewest good replies a round needs; with fewer the run stops at its last checkpoint."""
    eval_every: int = Field(1, ge=1)
    """Rounds between evaluations; the last round is always evaluated."""
    eval_clients: Literal["auto", "none", "all", "seen"] = "auto"
    """Whose local test sets are evaluated: auto is all for personalised methods, else none; seen: trained ones."""
    checkpoint_every: int = Field(10, ge=1)
    """Rounds between checkpoints; the last round always leaves one."""
    strategy: SerializeAsAny[StrategyConfig]
    """The federated method and its options."""
    data: DataConfig = DataConfig()
    """Data set, partition and long tail."""
    model: ModelConfig = ModelConfig()
    """Model of every client."""
    training: TrainingConfig = TrainingConfig()
    """Local training."""
    engine: EngineConfig = EngineConfig()
    """Execution; changes no result."""
    faults: FaultsConfig = FaultsConfig()
    """Failures to inject."""

    @field_validator("strategy", mode="before")
    @classmethod
    def _own_options(cls, value: object) -> object:
        if isinstance(value, str):
            value = {"name": value}
        if isinstance(value, Mapping):
            if not isinstance(value.get("name"), str):
                raise ValueError("needs a name; `fedsim list strategies` shows them")
            return load_strategy(value["name"]).config.model_validate(value)
        return value

    @field_validator("name")
    @classmethod
    def _folder_name(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", value):
            raise ValueError("a run's name consists of letters, digits, '.', '_' and '-'")
        return value

    @field_validator("cohort")
    @classmethod
    def _share(cls, value: int | str | None) -> int | str | None:
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)\s*%", value)
            if not match or not 0 < float(match[1]) <= 100:
                raise ValueError("must be a number of clients or a share such as 30%")
        elif value is not None and value < 1:
            raise ValueError("must be at least 1")
        return value

    @model_validator(mode="after")
    def _possible(self) -> RunConfig:
        if isinstance(self.cohort, int) and self.cohort > self.clients:
            raise ValueError(f"cohort: must be at most clients ({self.clients}), got {self.cohort}")
        if self.min_replies > self.cohort_size:
            raise ValueError(f"min_replies: must be at most the cohort ({self.cohort_size}), got {self.min_replies}")
        return self

    @property
    def cohort_size(self) -> int:
        """Clients sampled in a round."""
        if self.cohort is None:
            return self.clients
        if isinstance(self.cohort, int):
            return self.cohort
        return max(1, round(self.clients * float(self.cohort.rstrip(" %")) / 100))

    def to_yaml(self) -> str:
        """Return the complete configuration as YAML; loading it gives an equal configuration."""
        return yaml.safe_dump(self.model_dump(mode="json"), sort_keys=False)


def presets_folder() -> Path:
    """Return the folder of the presets: inside the installed package, or `configs/` of a source tree."""
    package = Path(__file__).parent
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
        If the file cannot be read or holds no mapping.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise FedsimError(f"{path}: cannot be read as a configuration ({type(error).__name__})") from None
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f"line {mark.line + 1}: " if mark else ""
        raise FedsimError(f"{path}: {where}not valid YAML ({getattr(error, 'problem', 'malformed')})") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise FedsimError(f"{path}: a configuration is a mapping of keys to values")
    return content


def find_config(name_or_path: str) -> Nested:
    """Return the raw configuration of a preset or a YAML file."""
    preset = presets_folder() / f"{name_or_path}.yaml"
    if preset.is_file():
        return read_yaml(preset)
    if Path(name_or_path).is_file():
        return read_yaml(Path(name_or_path))
    names = preset_names()
    raise FedsimError(f"--config {name_or_path}: neither a file nor a preset; {nearest(name_or_path, names)}")


def parse_override(text: str) -> tuple[str, Any]:
    """Return (dotted key, value) of `key.path=value`; the value is read as YAML."""
    key, equals, value = text.partition("=")
    if not equals or not re.fullmatch(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", key.strip()):
        raise FedsimError(f"--set {text}: must have the form key.path=value")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError:
        raise FedsimError(f"--set {text}: the value is not valid YAML; quote it") from None


_NAMED = ("strategy", "model", "data.partition")  # sections whose options belong to the name in them


def set_key(target: Nested, key: str, value: Any) -> None:
    """Set a dotted key in nested mappings, in place. Another `name` drops the options that belonged to the old one."""
    *parents, last = key.split(".")
    path = []
    for parent in parents:
        path.append(parent)
        inner = target.get(parent)
        if isinstance(inner, str) and ".".join(path) in _NAMED:  # the shorthand `partition: iid`
            inner = {"name": inner}
        if inner is None:
            inner = {}
        if not isinstance(inner, dict):
            raise FedsimError(f"{key}: {'.'.join(path)} is a value, not a section")
        target[parent] = inner
        target = inner
    if last == "name" and ".".join(parents) in _NAMED and target.get("name") != value:
        target.clear()
    target[last] = value


def _flatten(nested: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    # Names first, so that a section's other keys are set after the name they belong to.
    for key, value in sorted(nested.items(), key=lambda item: item[0] != "name"):
        if f"{prefix}{key}" in _NAMED and isinstance(value, str):
            yield f"{prefix}{key}.name", value
        elif isinstance(value, Mapping) and value:
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def resolve(*layers: Mapping[str, Any]) -> RunConfig:
    """Return the configuration that the layers make, later ones over earlier ones, all over the method's defaults.

    A layer is a nested mapping, as in YAML, or one of dotted keys, as on the command line.

    Raises
    ------
    FedsimError
        One line naming the key, the rule, the value given, and the nearest valid name.
    """
    raw: Nested = {"strategy": {"name": "fedavg"}}
    for layer in layers:
        for key, value in _flatten(layer):
            set_key(raw, key, value)
    name = raw["strategy"].get("name") if isinstance(raw["strategy"], dict) else None
    if not isinstance(name, str):
        raise FedsimError(f"strategy.name: must be a name; {nearest(str(name), describe('strategies'))}")
    method = load_strategy(name)
    merged: Nested = {}
    for key, value in [*method.run_defaults.items(), *_flatten(raw)]:
        set_key(merged, key, value)
    try:
        merged["strategy"] = method.config.model_validate(merged["strategy"])
    except ValidationError as error:
        raise FedsimError(_one_line(error, method.config, "strategy")) from None
    try:
        return RunConfig.model_validate(merged)
    except ValidationError as error:
        raise FedsimError(_one_line(error, RunConfig)) from None


def _one_line(error: ValidationError, root: type[BaseModel], *prefix: str) -> str:
    first = error.errors(include_url=False)[0]
    classes = [root]
    path = list(prefix)
    for part in first["loc"]:
        fields = [c.model_fields[part] for c in classes if isinstance(part, str) and part in c.model_fields]
        inner = [model for field in fields for model in _models(field.annotation)]
        if tagged := [
            c for c in classes if not fields and "name" in c.model_fields and c.model_fields["name"].default == part
        ]:
            classes = tagged  # the tag that pydantic puts in for a union's member; it is no key
            continue
        path.append(str(part))
        classes = inner or classes
    message = first["msg"].removeprefix("Value error, ")
    where = ".".join(path)
    if first["type"] == "extra_forbidden":
        return f"{where}: no such key; {nearest(path[-1], {name for c in classes for name in c.model_fields})}"
    if not where:
        return message  # the rule names its keys itself
    given = first["input"]
    shown = "" if isinstance(given, dict | BaseModel) else f", got {given!r}"
    return f"{where}: {message[0].lower()}{message[1:]}{shown}"


def _models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for argument in get_args(annotation) for model in _models(argument)]
