"""Number formats of a run: for parameters, for the arithmetic of a step, and for the matrix units of GPUs."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch

from fedsim.config.run import TrainingConfig
from fedsim.models.base import Classifier


def to_run_format(model: Classifier, config: TrainingConfig, device: torch.device) -> Classifier:
    """Return the model on `device` in the run's number format and memory layout."""
    dtype = torch.float64 if config.precision == "float64" else torch.float32
    model = model.to(device, dtype)
    return model.to(memory_format=torch.channels_last) if config.channels_last else model


def autocast(config: TrainingConfig, device: torch.device) -> AbstractContextManager[object]:
    """Return the context for forward passes: in mixed precision, bfloat16 for operations where that is safe."""
    if config.precision == "bf16-mixed":
        return torch.autocast(device.type, dtype=torch.bfloat16)
    return nullcontext()


def set_matrix_units(config: TrainingConfig) -> None:
    """Allow or forbid TF32 for float32 matrix products in this process; torch's default depends on the operation."""
    torch.backends.cuda.matmul.allow_tf32 = config.tf32
    torch.backends.cudnn.allow_tf32 = config.tf32
