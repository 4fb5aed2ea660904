import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsim
from fedsim.config.errors import option_paths, shown
from fedsim.config.machine import MACHINE_SETTINGS
from fedsim.config.renamed import tell_renamed
from fedsim.config.resolve import find_config, parse_override, read_yaml, resolve
from fedsim.config.run import RunConfig, flatten
from fedsim.config.schedule import AnySchedule
from fedsim.data import partition_names
from fedsim.errors import FedsimError
from fedsim.federated.registry import describe, load_strategy
from fedsim.models.config import MODELS
from fedsim.sealed import sha256
from tests.tiny_runs import TINY

# Layers --------------------------------------------------------------------------------------------------------------


def test_later_layers_win_key_by_key() -> None:
    defaults = resolve()
    assert defaults == RunConfig(strategy={"name": "fedavg"})
    method = resolve({"strategy": "fedloge"})
    file = {"strategy": {"name": "fedloge"}, "training": {"momentum": 0.6, "lr": 0.3, "batch_size": 7}}
    flags = {"training.lr": 0.4, "rounds": 9}
    sets = {"rounds": 11}
    config = resolve(file, flags, sets)
    assert method.training.momentum == load_strategy("fedloge").run_defaults["training.momentum"] == 0.5
    assert (config.training.momentum, config.training.lr, config.training.batch_size) == (0.6, 0.4, 7)
    assert (config.rounds, config.clients) == (11, defaults.clients)
    assert config.training.epochs == method.training.epochs


@pytest.mark.parametrize(
    ("key", "value"), [("strategy", "fedprox"), ("data.partition", "iid"), ("model", "mlp")], ids=lambda v: str(v)
)
def test_a_bare_name_is_the_section_with_that_name(key: str, value: str) -> None:
    nested: Any = value
    for part in reversed(key.split(".")):
        nested = {part: nested}
    assert resolve({key: value}) == resolve({f"{key}.name": value}) == resolve(nested)


def test_another_name_drops_the_options_of_the_old_one() -> None:
    file = {"data": {"partition": {"name": "dirichlet", "alpha": 0.1}}, "strategy": {"name": "fedprox", "mu": 3}}
    config = resolve(file, {"data.partition.name": "shards", "strategy.name": "ditto"})
    assert config.data.partition.model_dump() == {"name": "shards", "shards_per_client": 2}
    assert config.strategy.model_dump() == load_strategy("ditto").config(name="ditto").model_dump()


def test_the_same_name_keeps_them_even_if_it_was_the_default() -> None:
    assert resolve({"data": {"partition": {"alpha": 0.1}}}, {"data.partition.name": "dirichlet"}) == resolve(
        {"data.partition.alpha": 0.1}
    )
    # fedloge asks for batch normalisation in whatever model is the default; naming that model changes nothing.
    assert resolve({"strategy": "fedloge"}, {"model.name": resolve().model.name}) == resolve({"strategy": "fedloge"})
    assert resolve({"strategy": "fedloge", "model": "lenet5"}).model.norm is None  # which cannot have any


def test_within_a_layer_order_does_not_matter() -> None:
    options = {"strategy.mu": 3, "strategy.name": "fedprox", "model.hidden": [3], "model": "mlp"}
    assert resolve(options) == resolve(dict(reversed(options.items())))
    assert resolve(options).strategy.model_dump() == {"name": "fedprox", "mu": 3.0}


def test_a_section_that_is_empty_says_nothing() -> None:
    assert resolve({"strategy": "fedloge", "training": {}, "data": {"partition": {}}}) == resolve(
        {"strategy": "fedloge"}
    )


def test_layers_are_left_as_they_are() -> None:
    file: dict[str, Any] = {"training": {"lr": 0.3}, "strategy": {"name": "fedprox"}}
    resolve(file, {"training.lr": 0.4, "strategy.mu": 1})
    assert file == {"training": {"lr": 0.3}, "strategy": {"name": "fedprox"}}


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training.lr=0.1", "training.lr", 0.1),
        ("training.lr=1e-3", "training.lr", "1e-3"),  # YAML's idea of it; pydantic makes it a number
        ("model.hidden=[10, 20]", "model.hidden", [10, 20]),
        ("name=", "name", None),
        ("name='7'", "name", "7"),
        ("data.name=npz:a=b.npz", "data.name", "npz:a=b.npz"),
        ("strategy={name: fedprox, mu: 1}", "strategy", {"name": "fedprox", "mu": 1}),
        # Options that hold text take it as it stands.
        ("data.csv.target=# rooms", "data.csv.target", "# rooms"),
        ("data.csv.target=10", "data.csv.target", "10"),
        ("data.csv.target=no", "data.csv.target", "no"),
        ("data.csv.target=2020-01-02", "data.csv.target", "2020-01-02"),
        ("data.csv.target=weight, kg: {mean}", "data.csv.target", "weight, kg: {mean}"),
        ("data.csv.target=null", "data.csv.target", None),
        ("data.csv.client=yes", "data.csv.client", "yes"),
        ("data.csv.decimal=,", "data.csv.decimal", ","),
        ("data.csv.drop=[10, no, # rooms]", "data.csv.drop", ["10", "no", "# rooms"]),
        ("data.csv.drop=height, cm", "data.csv.drop", ["height, cm"]),
        ('data.csv.drop=["height, cm", x]', "data.csv.drop", ["height, cm", "x"]),
        ("data.root=~", "data.root", None),
        ("out=10", "out", "10"),
        ("cohort=10", "cohort", 10),
        ("data.csv.classes=yes", "data.csv.classes", True),
    ],
)
def test_the_value_of_an_override_is_yaml(text: str, key: str, value: object) -> None:
    assert parse_override(text) == (key, value)


def test_exponents_are_numbers() -> None:
    assert resolve(dict([parse_override("training.lr=1e-3")])).training.lr == 0.001


# The cohort ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cohort", "size"),
    [(None, 50), (7, 7), ("7", 7), (50, 50), ("30%", 15), ("100%", 50), ("1%", 1), ("0.1%", 1), ("33.3 %", 17)],
)
def test_the_cohort_is_a_number_or_a_share(cohort: object, size: int) -> None:
    assert resolve({"clients": 50, "cohort": cohort}).cohort_size == size


# Files ---------------------------------------------------------------------------------------------------------------

positive = st.floats(1e-6, 1e6)
overrides = st.fixed_dictionaries(
    {},
    optional={
        "strategy.name": st.sampled_from(sorted(describe("strategies"))),
        "data.partition.name": st.sampled_from(sorted(partition_names())),
        "model.name": st.sampled_from(sorted(MODELS)),
        "name": st.none() | st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,20}", fullmatch=True),
        "out": st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1),
        "data.name": st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1).map("npz:".__add__),
        "data.root": st.none() | st.just("some where"),
        "seed": st.integers(0, 2**70),
        "rounds": st.integers(2, 10**9),  # some methods begin with two stages
        "cohort": st.none() | st.integers(1, 20) | st.floats(0.01, 100).map(lambda share: f"{share:f}%"),
        "training.lr": positive,
        "training.clip_norm": st.none() | positive,
        "training.chunk": st.none() | st.integers(1, 100),
        "faults.dropout": st.floats(0, 0.5),
        "faults.nan": st.floats(0, 0.5),
        "engine.ray_address": st.none() | st.text(st.characters(codec="utf-8", exclude_categories=["C"])),
    },
)


def without(text: str, keys: Iterable[str]) -> list[str]:
    """Return which of the dotted keys are in a YAML text nevertheless."""
    return [key for key in keys if key in dict(flatten(yaml.safe_load(text)))]


@settings(deadline=None)  # a busy machine is no fault
@given(overrides)
def test_a_configuration_is_the_same_after_a_file(options: dict[str, Any]) -> None:
    config = resolve(options)
    machine = {key: options[key] for key in MACHINE_SETTINGS if key in options}
    assert not without(config.to_yaml(), machine)
    assert resolve(yaml.safe_load(config.to_yaml()), machine) == config
    assert resolve(config.model_dump()) == config


def test_the_file_of_a_run_reruns_it(tiny_run: Path, tmp_path: Path, no_pictures: None) -> None:
    rerun = fedsim.run(tiny_run / "config.yaml", overrides={"out": str(tmp_path)})
    assert sha256(rerun.folder / "model.safetensors") == sha256(tiny_run / "model.safetensors")
    assert rerun.config.model_dump(exclude={"out"}) == resolve(read_yaml(tiny_run / "config.yaml")).model_dump(
        exclude={"out"}
    )
    by_folder = fedsim.run(tiny_run, overrides={"out": str(tmp_path), "name": "again"})
    assert sha256(by_folder.folder / "model.safetensors") == sha256(tiny_run / "model.safetensors")


def test_a_mapping_a_file_and_a_configuration_are_the_same_run(tmp_path: Path, no_pictures: None) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    one_round = {"rounds": 1, "out": str(tmp_path)}
    given_as = {"mapping": TINY, "file": str(tmp_path / "tiny.yaml"), "config": resolve(TINY)}
    models = {
        sha256(fedsim.run(config, overrides={**one_round, "name": name}).folder / "model.safetensors")
        for name, config in given_as.items()
    }
    assert len(models) == 1


def test_a_preset_is_found_by_name_before_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copyfile(Path(__file__), "fedavg_digits")
    assert find_config("fedavg_digits")["strategy"] == "fedavg"


def test_merge_keys_are_no_duplicates(tmp_path: Path) -> None:
    text = "a: &a {lr: 0.3}\nb: &b {momentum: 0.1}\ntraining:\n  <<: [*a, *b]\n  lr: 0.2\n"
    (tmp_path / "x.yaml").write_text(text)
    assert read_yaml(tmp_path / "x.yaml")["training"] == {"lr": 0.2, "momentum": 0.1}


# Names of before -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("old", "new"), [("sequential", "never"), ("vectorized", "always"), ("auto", "auto")])
def test_a_key_of_before_loads_and_one_line_says_its_name_of_today(
    old: str, new: str, capsys: pytest.CaptureFixture[str]
) -> None:
    tell_renamed.cache_clear()
    assert (
        resolve({"training": {"cohort": old}})
        == resolve({"training.cohort": old})
        == resolve({"training.vectorize": new})
    )
    told = capsys.readouterr().err
    assert (
        told == "note: training.cohort is called training.vectorize now (always for vectorized, never for sequential)\n"
    )


def test_a_key_of_today_goes_over_one_of_before() -> None:
    assert resolve({"training.cohort": "sequential"}, {"training.vectorize": "always"}).training.vectorize == "always"


# Messages ------------------------------------------------------------------------------------------------------------


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
