"""Settings of a machine stay out of a run's folder."""

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsim
from fedsim.config.machine import MACHINE_SETTINGS, settings_file
from fedsim.config.resolve import resolve, user_settings
from fedsim.config.run import flatten
from fedsim.data import partition_names
from fedsim.errors import FedsimError
from fedsim.federated.registry import describe
from fedsim.models.config import MODELS
from tests.tiny_runs import TINY, Cli

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


def test_a_run_folder_keeps_no_setting_of_the_machine(tiny_run: Path) -> None:
    assert not set(MACHINE_SETTINGS) & set(dict(flatten(yaml.safe_load((tiny_run / "config.yaml").read_text()))))


def test_the_users_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    assert user_settings() == {}
    settings_file().parent.mkdir()
    settings_file().write_text(f"out: {tmp_path / 'mine'}\nengine: {{device: cpu}}\n")
    result = fedsim.run(TINY, overrides={"rounds": 1})
    assert result.folder.parent == tmp_path / "mine"
    assert result.config.engine.device == "cpu"
    assert fedsim.run(TINY, overrides={"rounds": 1, "out": str(tmp_path / "x")}).folder.parent == tmp_path / "x"
    settings_file().write_text("rounds: 3\n")
    with pytest.raises(FedsimError, match=r"settings.yaml: rounds is no setting of this machine; .*valid: engine.dash"):
        user_settings()


def test_a_run_that_goes_on_takes_this_machines_settings_only(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    (run / "summary.json").unlink()
    refused = cli("run", "--resume", run, "--clients", "9")
    assert (refused.code, "leave out clients" in refused.err) == (2, True)
    assert cli("run", "--resume", run, "--set", "engine.device=cpu", "--quiet").code == 0
    with pytest.raises(FedsimError, match="rounds is no setting of this machine"):
        fedsim.resume(run, overrides={"rounds": 9})
