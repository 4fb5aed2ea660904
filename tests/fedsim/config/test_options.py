"""Every option can be seen, with what it is by default, what it may be and what it does."""

import pytest
import yaml

from fedsim.config.options import options_of, topic
from fedsim.config.resolve import parse_override, resolve
from fedsim.config.run import RunConfig, TrainingConfig, flatten
from fedsim.data import partition_names
from fedsim.errors import FedsimError
from fedsim.federated.registry import describe
from fedsim.models.config import MODELS

FILLED_IN = {"plugins", "start_sha256", "model.widths"}


def all_shown() -> set[str]:
    """Return the keys that one finds who follows what `fedsim options` says, from its first page on."""
    keys, todo, done = set(), [("",)], set()
    while todo:
        words = todo.pop()
        done.add(words)
        page = topic([word for word in words if word])
        keys |= {option.key for option in page.options}
        todo += [below for line, _ in page.sections if (below := tuple(line.split(" "))) not in done]
    return keys


def test_every_option_of_a_run_is_on_some_page() -> None:
    default = dict(flatten(resolve().model_dump(mode="json")))
    shown = all_shown()
    sections = {key for key in default if any(other.startswith(f"{key}.") for other in shown)}  # null by default
    kinds = {key for key in default if key.endswith(".name")} - {"data.name", "model.name", "engine.name"}
    assert set(default) - sections - kinds - FILLED_IN <= shown


def test_bounds_and_choices_are_those_that_hold() -> None:
    by_key = {option.key: option for option in options_of(TrainingConfig, "training.")}
    assert by_key["training.momentum"].allowed == "number >= 0, < 1"
    assert by_key["training.optimizer"].allowed.startswith("sgd | adam")
    assert by_key["training.lr"].default == "0.1"
    assert by_key["training.clip_norm"].default == "null"
    for key, wrong in (("training.momentum", "1"), ("training.optimizer", "x"), ("training.epochs", "0")):
        with pytest.raises(FedsimError):
            resolve(dict([parse_override(f"{key}={wrong}")]))


@pytest.mark.parametrize("name", sorted(describe("strategies")))
def test_every_strategy_tells_its_options(name: str) -> None:
    page = topic(["strategy", name])
    own = {key for key, _ in flatten(resolve({"strategy": name}).model_dump(mode="json")["strategy"], "strategy.")}
    assert {option.key for option in page.options} >= own - {"strategy.name"}
    assert page.summary
    assert all(option.summary and option.allowed for option in page.options)


def test_every_partition_and_model_tells_its_own() -> None:
    for name in partition_names():
        for option in topic(["partition", name]).options:
            value = yaml.safe_load(option.default)
            if value is not None:
                assert resolve({"data.partition.name": name, option.key: value})
    for name, entry in MODELS.items():
        shown = {option.key for option in topic(["model", name]).options}
        assert {f"model.{option}" for option in entry.options} <= shown


@pytest.mark.parametrize("words", [["nothing"], ["strategy", "fedlodge"], ["partition", "x"], ["a", "b", "c"]])
def test_what_is_not_there_is_one_line(words: list[str]) -> None:
    with pytest.raises(FedsimError, match=r"options|unknown strategy"):
        topic(words)


def test_options_of_the_run_itself_have_words() -> None:
    assert all(option.summary for option in options_of(RunConfig))
