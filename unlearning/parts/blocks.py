"""Split a model into blocks from input to output, train its last blocks, and draw new weights."""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
from pydantic import Field
from torch import nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.randomness import torch_draws
from unlearning.api.registry import searched
from unlearning.api.view import View
from unlearning.parts.steps import RepairConfig, descend, kept_losses, required, sgd

_NORMS = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


class TailConfig(RepairConfig):
    """SGD on the kept samples, on the last blocks only."""

    blocks: int = Field(1, ge=0)
    """Number of blocks (a layer, or a residual or encoder block) that are trained together with the classifier."""
    epochs: int = Field(10, ge=0, json_schema_extra=searched(5, 30))
    """Passes over the kept samples."""


def blocks(model: Classifier) -> list[list[nn.Module]]:
    """Return the modules with weights of the feature extractor, in order; norms belong to the block before them."""
    found: list[list[nn.Module]] = []
    waiting = list(model.features.children())
    while waiting:
        module = waiting.pop(0)
        if isinstance(module, nn.Sequential):
            waiting = [*module, *waiting]
        elif found and isinstance(module, _NORMS):
            found[-1].append(module)
        elif any(True for _ in module.parameters()):
            found.append([module])
    return found


def tail(model: Classifier, num_blocks: int) -> list[nn.Module]:
    """Return the modules of the last `num_blocks` blocks and the classifier.

    All modules if there are no more blocks.
    """
    parts = blocks(model)
    if num_blocks >= len(parts):
        return [model.features, model.classifier]
    return [module for part in parts[len(parts) - num_blocks :] for module in part] + [model.classifier]


def reset(modules: Sequence[nn.Module], rng: np.random.Generator) -> None:
    """Draw the weights of modules anew from their layers' initial distributions, in place, on any device.

    Raises
    ------
    FedsimError
        If a module has weights and no `reset_parameters`.
    """
    seed = int(rng.integers(2**63 - 1))
    with torch_draws(seed):
        for module in modules:
            fresh = copy.deepcopy(module).to("cpu")
            for layer in fresh.modules():
                draw = getattr(layer, "reset_parameters", None)
                if draw is not None:
                    draw()
                elif any(True for _ in layer.parameters(recurse=False)):
                    raise FedsimError(f"{type(layer).__name__} cannot be drawn anew; give it reset_parameters()")
            module.load_state_dict(fresh.state_dict())


def repair_tail(model: Classifier, retain: View | None, config: TailConfig, rng: np.random.Generator) -> Classifier:
    """Fine-tune the last blocks on the kept samples, in place.

    Earlier blocks keep every bit, also of their statistics.
    """
    trained = {id(parameter): parameter for module in tail(model, config.blocks) for parameter in module.parameters()}
    fixed = [parameter for parameter in model.parameters() if id(parameter) not in trained]
    parts = blocks(model)
    frozen = [module for part in parts[: max(0, len(parts) - config.blocks)] for module in part]
    for parameter in fixed:
        parameter.requires_grad_(False)
    optimizer = sgd(trained.values(), config)
    for _ in range(config.epochs):
        descend(kept_losses(model, required(retain), config.batch_size, rng, frozen), optimizer)
    for parameter in fixed:
        parameter.requires_grad_(True)
    return model.eval()
