import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedsim
from fedsim.config.resolve import find_config, read_yaml, resolve
from fedsim.config.run import RunConfig
from fedsim.federated.registry import load_strategy
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


# Files ---------------------------------------------------------------------------------------------------------------


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
