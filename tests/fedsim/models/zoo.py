"""Every model of the registry with every norm it takes, narrow where it can be: a new model is tested automatically."""

from typing import Any

import torch

from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import MODELS, ModelConfig

VARIANTS = [(name, norm) for name, entry in MODELS.items() for norm in entry.norms or (None,)]
NUM_CLASSES = 5


def small_config(name: str, norm: Any = None, **options: Any) -> ModelConfig:
    narrow = {
        "width": 8, "hidden": (24, 16), "dropout": 0.0, "depth": 2, "heads": 2, "patch": 4, "mlp_ratio": 1.5,
    }  # fmt: skip
    return ModelConfig(
        name=name, norm=norm, **({key: narrow[key] for key in MODELS[name].options if key in narrow} | options)
    )


def input_shape(name: str, channels: int = 2) -> tuple[int, ...]:
    if MODELS[name].reads == "text":
        return (6,)
    side = max(8, MODELS[name].min_side)
    return (channels, side, side)


def small_model(name: str, norm: Any = None, seed: int = 0, **options: Any) -> Classifier:
    return build_model(small_config(name, norm, **options), input_shape(name), NUM_CLASSES, seed)


def inputs(name: str, *batch: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    if MODELS[name].reads == "text":
        return torch.randint(NUM_CLASSES, (*batch, *input_shape(name)), generator=generator)
    return torch.randn(*batch, *input_shape(name), generator=generator)
