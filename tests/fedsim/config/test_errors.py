"""Messages about options."""

from typing import Any, get_args

import pytest

from fedsim.config.errors import option_paths, shown
from fedsim.config.resolve import resolve
from fedsim.config.run import RunConfig
from fedsim.config.schedule import AnySchedule
from fedsim.data import partition_names
from fedsim.errors import FedsimError


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), ("x", "'x'"), (1.0, "1.0"), ([1], "[1]"), ("x" * 99, "'" + "x" * 59 + "...")],
)
def test_values_are_shown_as_they_are_written(value: object, text: str) -> None:
    assert shown(value) == text


_KINDS = ("strategy", "data.partition", "training.schedule", "server.schedule")
"""Sections of which there are several kinds, told by their name."""

_NAMES = tuple(f"{section}.name" for section in _KINDS)


def _kind_with(section: str, key: str) -> dict[str, str]:
    """Return the name of a kind of a section that has a key, by the name's own key."""
    if section == "data.partition":
        return {f"{section}.name": next(name for name in partition_names() if key in _options(name))}
    if section.endswith(".schedule"):
        kinds = {kind.model_fields["name"].default: kind for kind in get_args(AnySchedule)}
        return {f"{section}.name": next(name for name, kind in kinds.items() if key in kind.model_fields)}
    return {}


@pytest.mark.parametrize(
    "path", sorted(p for p in option_paths(RunConfig) if p not in _NAMES and not p.startswith("plugins."))
)
def test_every_option_refuses_what_is_no_value_by_its_path(path: str) -> None:
    """Whatever the key is, the line begins with it, names the value and has no word of pydantic's."""
    section, _, key = path.rpartition(".")
    with pytest.raises(FedsimError) as error:
        resolve({**_kind_with(section, key), path: [[[3.5]]]})
    text = str(error.value)
    assert text.startswith(tuple(f"{path}{place}: " for place in ("", ".0", ".0.0")))
    assert "[3.5]" in text
    assert "nput should" not in text
    assert "\n" not in text


def _options(partition: str) -> dict[str, Any]:
    return resolve({"data.partition": partition}).data.partition.model_dump()
