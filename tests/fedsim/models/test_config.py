import inspect
import subprocess
import sys
from importlib import import_module
from typing import Any

import pytest
from pydantic import ValidationError

from fedsim.errors import FedsimError
from fedsim.models import ModelConfig, available_models
from fedsim.models.config import MODELS


def test_the_names_are_listed_without_importing_torch() -> None:
    code = "import sys, fedsim.models as m; print(*m.available_models()); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == list(available_models())
    assert all(line and "\n" not in line for line in available_models().values())


@pytest.mark.parametrize("name", MODELS)
def test_the_registry_agrees_with_the_builders(name: str) -> None:
    entry = MODELS[name]
    builder = getattr(import_module(f"fedsim.models.{entry.module}"), name)
    takes = list(inspect.signature(builder).parameters)
    told = ["num_classes"] if entry.reads == "text" else ["norm"] if len(entry.norms) > 1 else []
    assert takes == ["input_shape", *told, *sorted(entry.options, key=takes.index)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "resnet81"}, "model.name: unknown model 'resnet81'; did you mean 'resnet8'? valid: cnn, lenet5"),
        ({"name": "cnn", "hidden": (10,)}, "model.hidden: cnn has no such option (it takes: width)"),
        ({"name": "logistic", "dropout": 0.1}, "model.dropout: logistic has no such option (it takes: none of"),
        ({"name": "lenet5", "norm": "batch"}, "model.norm: lenet5 takes none; got 'batch'"),
        ({"name": "resnet18", "norm": "none"}, "model.norm: resnet18 takes batch, group; got 'none'"),
        ({"name": "vit", "norm": "group"}, "model.norm: vit takes nothing, its layer norm is fixed; got 'group'"),
    ],
)
def test_an_option_that_the_model_lacks_is_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(FedsimError) as error:
        ModelConfig(**options)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "options",
    [
        {"width": 0},
        {"name": "mlp", "hidden": ()},
        {"name": "mlp", "dropout": 1.0},
        {"name": "vit", "depth": 0},
        {"deep": 3},
    ],
)
def test_an_option_out_of_range_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        ModelConfig(**options)


def test_a_config_survives_its_own_dump() -> None:
    config = ModelConfig(name="mlp", norm="batch", hidden=(128, 64), dropout=0.25)
    assert ModelConfig.model_validate(config.model_dump(mode="json")) == config


@pytest.mark.parametrize("name", [*MODELS, "torchvision:resnet18"])
def test_the_way_to_a_normalisation_is_one_that_can_be_gone(name: str) -> None:
    way = ModelConfig(name=name).way_to("group")
    if way == "set model.norm=group":
        assert ModelConfig(name=name, norm="group").norm == "group"
    else:
        assert [ModelConfig(name=other, norm="group").norm for other in ("mlp", "cnn") if other in way] == ["group"] * 2
