"""Networks of other libraries and of the user's own files, by name, without heads and pre-trained weights."""

import importlib.util
import inspect
from typing import Any

import torch
import torchvision
from torch import nn

from fedsim.errors import FedsimError, nearest
from fedsim.installed import installed, load_installed
from fedsim.models.base import Features
from fedsim.plugins import chosen, load_plugin, plugin_of

_HEADS = ("fc", "classifier", "heads", "head")
"""The names of the part after the features in torchvision's networks."""


def torchvision_model(input_shape: tuple[int, ...], name: str) -> Features:
    """Return a classification network of torchvision without its last layer, which must be linear.

    Raises
    ------
    FedsimError
        If there is no such network, it has no linear head, or it does not accept such images.
    """
    known = torchvision.models.list_models(torchvision.models)
    if name not in known:
        raise FedsimError(f"model.name: torchvision has no model {name!r}; {nearest(name, known)}")
    options = {"image_size": input_shape[-1]} if name.startswith("vit_") else {}
    try:
        network = torchvision.models.get_model(name, weights=None, **options)
        for head in _HEADS:
            if isinstance(getattr(network, head, None), nn.Module):
                last = [part for part in getattr(network, head).modules() if isinstance(part, nn.Linear)][-1]
                _replace(network, last)
                return network, _num_features(network, input_shape)
    except (RuntimeError, ValueError, AssertionError, IndexError, AttributeError) as error:
        raise _unfit(f"torchvision:{name}", input_shape, error) from None
    raise FedsimError(f"model.name: torchvision:{name} has no linear head; use another, such as torchvision:resnet50")


def timm_model(input_shape: tuple[int, ...], name: str) -> Features:
    """Return a network of timm without its head.

    Raises
    ------
    FedsimError
        If timm is not installed, it has no such network, or the network does not accept such images.
    """
    if importlib.util.find_spec("timm") is None:
        raise FedsimError("model.name: timm is not installed; install it with: pip install timm")
    import timm

    if not timm.is_model(name):
        raise FedsimError(f"model.name: timm has no model {name!r}; {nearest(name, timm.list_models())}")
    options: dict[str, Any] = {"pretrained": False, "num_classes": 0, "in_chans": input_shape[0]}
    try:
        try:
            network = timm.create_model(name, img_size=input_shape[1:], **options)
        except TypeError:  # a network that takes images of any size
            network = timm.create_model(name, **options)
        return network, _num_features(network, input_shape)
    except (RuntimeError, ValueError, AssertionError) as error:
        raise _unfit(f"timm:{name}", input_shape, error) from None


def own_model(input_shape: tuple[int, ...], num_classes: int, name: str) -> Features:
    """Return a network from a user's file, such as `./net.py:Net`, without its last linear layer.

    `Net` is called with the arguments `input_shape` and `num_classes`, each only if its signature has it. For text, its
    inputs are characters, int64 (B, L).

    Raises
    ------
    FedsimError
        If there is no such class, it has no linear layer, or it does not accept such inputs.
    """
    plugin = plugin_of(name)
    assert plugin is not None
    path, wanted = plugin
    module = load_plugin(path, "model.name")
    kinds = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type) and issubclass(value, nn.Module) and value.__module__ == module.__name__
    }
    return _without_head(
        chosen(kinds, path, wanted, "model.name", "a torch.nn.Module", ()), input_shape, num_classes, name
    )


def installed_model(input_shape: tuple[int, ...], num_classes: int, name: str) -> Features:
    """Return a network of an installed package, by its entry point, without its last linear layer; see `own_model`.

    Raises
    ------
    FedsimError
        If it is no `torch.nn.Module` class, has no linear layer, or does not accept such inputs.
    """
    kind = load_installed(installed("models", ())[name], "model.name")
    if not (isinstance(kind, type) and issubclass(kind, nn.Module)):
        raise FedsimError(f"model.name: {name} of an installed package is no torch.nn.Module; ask its author")
    return _without_head(kind, input_shape, num_classes, name)


def _without_head(kind: type[nn.Module], input_shape: tuple[int, ...], num_classes: int, name: str) -> Features:
    known: dict[str, Any] = {"input_shape": input_shape, "num_classes": num_classes}
    taken = {key: value for key, value in known.items() if key in inspect.signature(kind).parameters}
    try:
        network: nn.Module = kind(**taken)
        last = [part for part in network.modules() if isinstance(part, nn.Linear)]
        if not last:
            raise FedsimError(f"model.name: {name} has no linear layer to become its head; add one")
        _replace(network, last[-1])
        return network, _num_features(network, input_shape)
    except (RuntimeError, ValueError, TypeError, AssertionError, IndexError, AttributeError) as error:
        raise _unfit(name, input_shape, error) from None


def _replace(network: nn.Module, layer: nn.Module) -> None:
    for parent in network.modules():
        for name, child in parent.named_children():
            if child is layer:
                setattr(parent, name, nn.Identity())


@torch.no_grad()
def _num_features(network: nn.Module, input_shape: tuple[int, ...]) -> int:
    network.eval()
    try:
        features = network(torch.zeros(1, *input_shape))
    except (RuntimeError, IndexError) as error:  # the network may embed characters
        try:
            features = network(torch.zeros(1, *input_shape, dtype=torch.long))
        except (RuntimeError, IndexError):
            raise error from None
    network.train()
    if features.ndim != 2:
        raise ValueError(f"its output has the shape {tuple(features.shape)}")
    return int(features.shape[1])


def _unfit(name: str, input_shape: tuple[int, ...], error: Exception) -> FedsimError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return FedsimError(f"model.name: {name} does not accept inputs of shape {input_shape} ({reason[:200]})")
