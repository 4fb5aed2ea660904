"""A model as a pure function of its parameters and buffers, for one client or, under `torch.func.vmap`, for many."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from fedsim.models.base import Classifier
from fedsim.models.lanes import for_lanes, linear

Tensors = Mapping[str, Tensor]
"""Tensors by the module's full names, such as `features.0.weight`; other names are ignored."""


class FunctionalModel:
    """The forward pass of a model in two parts, features and classifier; it holds no weights and changes no model.

    In training mode, the running statistics of batch norm are updated in place in the given `buffers`. Under `vmap`
    they need the leading client dimension, as the parameters do. Two threads must not use one object at the same time.

    Parameters
    ----------
    model
        gives the structure only; later changes to it have no effect
    """

    def __init__(self, model: Classifier) -> None:
        # Meta tensors: if a caller forgets a tensor, the call raises instead of silently using the weights of a copy.
        # One copy per mode, because switching the mode walks all modules at every call.
        train = for_lanes(copy.deepcopy(model.features).to("meta").train())
        self._modules: dict[bool, nn.Module] = {True: train, False: copy.deepcopy(train).eval()}
        self._parameters = {f"features.{name}": name for name, _ in train.named_parameters()}
        self._buffers = {f"features.{name}": name for name, _ in train.named_buffers()}

    def features(self, params: Tensors, buffers: Tensors, x: Tensor, *, train: bool) -> Tensor:
        """Return the features (B, feature_dim) of inputs (B, *input_shape)."""
        tensors = {name: params[full] for full, name in self._parameters.items()}
        tensors.update({name: buffers[full] for full, name in self._buffers.items()})
        features: Tensor = functional_call(self._modules[train], tensors, (x,), tie_weights=False)
        return features

    def classify(self, params: Tensors, features: Tensor) -> Tensor:
        """Return the logits (B, num_classes) of features (B, feature_dim)."""
        return linear(features, params["classifier.weight"], params.get("classifier.bias"))

    def logits(self, params: Tensors, buffers: Tensors, x: Tensor, *, train: bool) -> Tensor:
        """Return the logits (B, num_classes) of inputs (B, *input_shape)."""
        return self.classify(params, self.features(params, buffers, x, train=train))
