"""A model as a pure function of its parameters and buffers, for one client or, under `torch.func.vmap`, for many."""

import copy
from collections.abc import Mapping

from torch import Tensor, nn
from torch.func import functional_call

from fedsim.models.base import Classifier
from fedsim.models.lanes import for_lanes, linear

Tensors = Mapping[str, Tensor]
"""Tensors by the module's full names, such as `features.0.weight`; names of no such tensor are ignored."""


class FunctionalModel:
    """The forward pass of a model, cut at its features; holds no weights and leaves the model untouched.

    In training mode the running statistics of batch norm are updated in place in the `buffers` passed. Under `vmap`
    they need the leading client dimension, as the parameters do. Not for use by two threads at once.

    Parameters
    ----------
    model
        gives the structure only; later changes to it are not seen
    """

    def __init__(self, model: Classifier) -> None:
        # Meta tensors: a tensor that a caller forgets raises instead of silently falling back on a copy's weights.
        # One copy per mode, as switching the mode walks all modules at every call.
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
