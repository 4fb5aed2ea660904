"""Writes a starter configuration: a commented YAML file with the most important options for one method."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from typing import Any

import yaml

from fedsim.config.options import Option, topic
from fedsim.config.resolve import Nested, resolve, set_key
from fedsim.config.run import RunConfig, flatten
from fedsim.federated.registry import load_strategy
from fedsim.plugins import short_name

_KEYS = (
    "clients", "cohort", "rounds", "seed", "data.name", "data.partition", "model.name", "training.epochs",
    "training.batch_size", "training.lr", "training.momentum",
)  # fmt: skip
"""The options that users change first, for all methods."""
_WIDTH = 100


def starter(strategy: str, command: str) -> str:
    """Return a YAML file with a method's default values, each with a comment on its meaning.

    `command` is the command that runs the file; it is shown in the first lines.
    """
    config = resolve({"strategy.name": strategy})
    method = load_strategy(config.strategy.name)
    dumped = config.model_dump(mode="json")
    wanted = ["strategy", *_KEYS, *(key for key, _ in flatten(method.run_defaults))]
    shown: Nested = {}
    for key in sorted(wanted, key=lambda key: _place(key, wanted)):
        if key != "data.partition.name":  # already in the partition
            set_key(shown, key, _value(dumped, key))
    about = topic(["strategy", strategy])
    head = [
        f"{short_name(strategy)}: {about.summary.partition(': ')[2] or about.summary}",
        "Every value is the default of this method. All options: fedsim options",
        f"Run: {command}",
    ]
    lines = [f"# {line}" for text in head for line in textwrap.wrap(text, _WIDTH - 2)]
    return "\n".join([*lines, "", *_written(shown, _known(config))]) + "\n"


def _place(key: str, wanted: list[str]) -> tuple[int, int]:
    sections = list(dict.fromkeys(key.partition(".")[0] for key in wanted))
    return sections.index(key.partition(".")[0]), wanted.index(key)


def _value(dumped: Any, key: str) -> Any:
    for part in key.split("."):
        dumped = dumped[part]
    return dumped


def _known(config: RunConfig) -> dict[str, Option]:
    asked: list[list[str]] = [
        [], ["data"], ["data.partition", config.data.partition.name], ["data.stages"], ["model"], ["training"],
        ["privacy"], ["history"], ["strategy", config.strategy.name],
    ]  # fmt: skip
    return {option.key: option for words in asked for option in topic(words).options}


def _written(section: Nested, known: dict[str, Option], prefix: str = "", depth: int = 0) -> Iterable[str]:
    indent = "  " * depth
    for name, value in section.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _written(value, known, f"{prefix}{name}.", depth + 1)
            continue
        if (option := known.get(f"{prefix}{name}")) is not None:
            text = f"{option.summary} ({option.allowed})" if option.allowed != "text" else option.summary
            yield from (f"{indent}# {line}" for line in textwrap.wrap(text, _WIDTH - len(indent) - 2))
        written = yaml.safe_dump(value, default_flow_style=True, width=10**6).partition("\n")[0]
        yield f"{indent}{name}: {written}"
