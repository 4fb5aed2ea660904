import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import fedsim
from fedsim.config.resolve import resolve
from fedsim.config.strategy import StrategyConfig
from fedsim.errors import FedsimError
from fedsim.federated import registry
from fedsim.federated.client import Client
from fedsim.federated.registry import describe, load_strategy, strategy
from fedsim.federated.server import Server
from fedsim.models.base import Classifier
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.runner import load_run_model
from fedsim.runs.simulation import Simulation
from tests.strategies.small_runs import OWN
from tests.tiny_runs import TINY

METHODS = sorted(describe("strategies"))


def test_listing_imports_no_method_and_no_torch() -> None:
    code = (
        "import sys; from fedsim.federated.registry import describe; names = describe('strategies'); "
        "bad = {'torch', 'flwr', 'strategies.fedavg'} & set(sys.modules); print(len(names), *bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(METHODS))]


def test_every_method_is_described_in_one_line() -> None:
    for module, summary in describe("strategies").values():
        assert module.startswith("strategies.")
        assert summary
        assert "\n" not in summary


def test_a_name_can_be_taken_once() -> None:
    load_strategy("fedavg")
    with pytest.raises(ValueError, match="'fedavg' is registered twice"):
        strategy("fedavg", StrategyConfig, Client, Server)


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(FedsimError, match=r"strategy\.name: unknown strategy 'fedpro'; did you mean 'fedprox'\?"):
        load_strategy("fedpro")


def test_a_new_file_is_a_new_method(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A package is read, not run: a file is listed even if it could not be imported."""
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / "__init__.py").touch()
    (tmp_path / "methods" / "a.py").write_text(
        '"""A: it averages.\n\nMore."""\nimport nowhere\nstrategy("a", 1, 2, 3)\n'
    )
    (tmp_path / "methods" / "b.py").write_text(
        '"""Two."""\nstrategy("b", summary="B.")\nstrategy("c", 1)\nother("d")\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    assert describe("methods") == {
        "a": ("methods.a", "A: it averages."),
        "b": ("methods.b", "B."),
        "c": ("methods.b", "Two."),
    }


@pytest.mark.parametrize("method", METHODS)
def test_a_method_loads_with_its_defaults(method: str) -> None:
    loaded = load_strategy(method)
    assert loaded is registry._strategies[method]
    assert loaded.name == method
    assert issubclass(loaded.config, StrategyConfig)
    assert issubclass(loaded.client, Client)
    config = resolve({"strategy": method})
    assert type(config.strategy) is loaded.config
    for option, field in loaded.config.model_fields.items():
        assert option == "name" or field.description, f"strategy.{option} of {method} is not described"


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", METHODS)
def test_a_method_runs(method: str, tmp_path: Path) -> None:
    """Two rounds, from the configuration to a model that loads."""
    overrides = {"strategy.name": method, "rounds": 2, "out": str(tmp_path)}
    if method == "fedbn":
        overrides["model.norm"] = "batch"
    result = fedsim.run(TINY, overrides=overrides | OWN.get(method, {}))
    assert [row["round"] for row in result.metrics] == [1, 2]
    assert result.final["train/loss"] > 0
    assert all(np.isfinite(value) for value in result.final.values())
    assert any(name.endswith("/accuracy") for name in result.final)
    model = load_run_model(result.folder)
    assert isinstance(model, Classifier)
    assert not model.training
    for name, value in model.state_dict().items():
        assert value.isfinite().all()
        assert torch.equal(value, result.model.state_dict()[name])
    checkpoint = load_latest(result.folder)
    assert checkpoint is not None
    assert checkpoint.round == 2
    server = Simulation(result.config).server
    server.load_state_dict(*checkpoint.server)
    tensors, values = server.state_dict()
    assert values == checkpoint.server[1]
    assert tensors.keys() == checkpoint.server[0].keys()
    assert all(torch.equal(tensors[name], value) for name, value in checkpoint.server[0].items())
