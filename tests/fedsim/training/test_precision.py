"""Parameters, arithmetic and matrix units in the number format of a run."""

import pytest
import torch

from fedsim.config.run import TrainingConfig
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.training.precision import autocast, set_matrix_units, to_run_format

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("precision", "parameters", "products"),
    [
        ("float32", torch.float32, torch.float32),
        ("float64", torch.float64, torch.float64),
        ("bf16-mixed", torch.float32, torch.bfloat16),
    ],
)
def test_formats(precision: str, parameters: torch.dtype, products: torch.dtype) -> None:
    config = TrainingConfig.model_validate({"precision": precision})
    model = to_run_format(build_model(ModelConfig(name="cnn"), (1, 8, 8), 10, 0), config, CPU)
    assert {value.dtype for value in model.parameters()} == {parameters}
    with autocast(config, CPU):
        assert model(torch.zeros(2, 1, 8, 8, dtype=parameters)).dtype == products


def test_channels_last_and_tf32() -> None:
    config = TrainingConfig(channels_last=True, tf32=True)
    model = to_run_format(build_model(ModelConfig(name="cnn"), (3, 8, 8), 10, 0), config, CPU)
    assert model.features[0].weight.is_contiguous(memory_format=torch.channels_last)
    try:
        for tf32 in (True, False):
            set_matrix_units(config.model_copy(update={"tf32": tf32}))
            assert torch.backends.cuda.matmul.allow_tf32 == torch.backends.cudnn.allow_tf32 == tf32
    finally:
        set_matrix_units(TrainingConfig())
