"""Build a network with reproducible initial weights from its configuration."""

import importlib

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier, Features
from fedsim.models.config import ModelConfig
from fedsim.randomness import torch_draws, torch_seed


def build_model(config: ModelConfig, input_shape: tuple[int, ...], num_classes: int, seed: int) -> Classifier:
    """Return a new model on the CPU, in training mode. Its weights depend on the arguments only.

    Parameters
    ----------
    config
        the model and its options
    input_shape
        shape of one sample: (channels, height, width), (dimension,) or (characters,)
    num_classes
        number of logits; 1 for regression; for text, the number of distinct characters
    seed
        the run's seed

    Raises
    ------
    FedsimError
        If the model does not accept inputs of this shape, or its options do not fit the shape.
    """
    entry = config.entry
    if entry.min_side and (len(input_shape) != 3 or min(input_shape[1:]) < entry.min_side):
        need = f"images (channels, height, width) of at least {entry.min_side}x{entry.min_side}"
        others = "mlp or logistic" if len(input_shape) == 1 else "mlp or cnn"
        raise FedsimError(f"model.name: {config.name} needs {need}; got inputs of shape {input_shape}; try {others}")
    if entry.reads == "text" and len(input_shape) != 1:
        raise FedsimError(f"model.name: {config.name} reads text; got inputs of shape {input_shape}; try mlp or cnn")
    module, function = config.builder
    builder = getattr(importlib.import_module(f"fedsim.models.{module}"), function)
    with torch_draws(torch_seed(seed, "model")), torch.device("cpu"):
        told = {} if entry.reads == "numbers" else {"num_classes": num_classes}
        features: Features = builder(input_shape, **told, **config.options())
        model = Classifier(*features, num_classes, entry.intercept)
    model.input_shape = tuple(input_shape)
    if config.widths:
        from fedsim.models.channels import with_widths  # narrowed models only: it imports a tracer

        return with_widths(model, input_shape, config.widths)
    return model


def has_batch_coupling(model: nn.Module) -> bool:
    """Return whether, in training, a sample's output depends on the rest of its batch (batch norm)."""
    return any(isinstance(module, _BatchNorm) for module in model.modules())
