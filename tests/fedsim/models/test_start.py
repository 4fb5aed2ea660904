"""Weights from a file: the model's own names and shapes, but another number of classes keeps its own head."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.models.start import load_start, start_file, start_hash
from fedsim.sealed import sha256


def model_of(classes: int, seed: int, width: int = 8) -> Classifier:
    return build_model(ModelConfig(name="mlp", hidden=(width,)), (5,), classes, seed)


@pytest.mark.parametrize("classes", [3, 4])
def test_a_head_for_other_classes_stays(classes: int, tmp_path: Path) -> None:
    given, model, before = model_of(3, 1), model_of(classes, 2), model_of(classes, 2).state_dict()
    save_file(given.state_dict(), tmp_path / "model.safetensors")
    load_start(model, tmp_path)
    for name, value in model.state_dict().items():
        expected = before[name] if classes == 4 and name.startswith("classifier.") else given.state_dict()[name]
        assert torch.equal(value, expected), name
    assert start_hash(tmp_path) == sha256(start_file(tmp_path))


def test_other_files_are_refused_in_one_line(tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    with pytest.raises(FedsimError, match=r"^start: .*a\.safetensors cannot be read .*; give the folder"):
        start_hash(file)
    file.write_bytes(b"no weights")
    with pytest.raises(FedsimError, match="is not a readable safetensors file"):
        load_start(model_of(3, 0), file)
    save_file(model_of(3, 0, width=9).state_dict(), file)
    with pytest.raises(FedsimError, match=r"features\..* is of shape \(9, 5\), here \(8, 5\)|is of shape \(9,\)"):
        load_start(model_of(3, 0), file)
    save_file({**model_of(3, 0).state_dict(), "more": torch.ones(1)}, file)
    with pytest.raises(FedsimError, match="only the file has more; choose the --model that the file is of"):
        load_start(model_of(3, 0), file)
