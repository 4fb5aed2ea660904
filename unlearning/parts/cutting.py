"""From a ranking of channels to a smaller model: the kept share, compensation, batch norm, and repetition.

One cut, as in Algorithm 1 of "ModHiFi" (arXiv:2511.19566): compute moments of the inputs of each layer, rank the
channels, remove all beyond the share that meets the target, rescale the kept ones, and re-estimate batch norm. Several
cuts approach the target in equal ratios, each with moments of the previous model.
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.models.channels import ChannelGroup, Cost, channel_groups, cost, layer_positions, narrowed
from fedsim.models.fidelity import PatchSums, compensated
from unlearning.api.pruner import Pruner, PrunerConfig, PruningTask
from unlearning.evaluation.batch_norm import batch_norms
from unlearning.parts.layer_sums import Ask

Quantity = Literal["flops", "params", "keep"]

_STILL = 1e-4
"""Changes of means and variances below this, relative to the variances, count as none."""


@dataclass(frozen=True)
class Target:
    """The target size: `share` of the floating-point operations, of the parameters, or (keep) of each ranking."""

    of: Quantity
    share: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target in `flops=0.5`, `params=0.5` or `keep=0.9`.

        Raises
        ------
        FedsimError
            If the text is none of these.
        """
        match = re.fullmatch(rf"({'|'.join(get_args(Quantity))})=(\d*\.?\d+(?:[eE]-?\d+)?)", text.strip())
        if match is None or not 0 < float(match[2]) <= 1:
            raise FedsimError(f"--target {text}: must be flops=, params= or keep= and a share above 0, at most 1")
        return cls(match[1], float(match[2]))  # type: ignore[arg-type]  # the pattern admits these only

    def part(self, number: int, of: int) -> Target:
        """Return the target of cut `number` of several; their shares multiply to the whole share."""
        return Target(self.of, self.share ** (number / of))


@dataclass(frozen=True)
class Corrections:
    """Corrections of the remaining weights."""

    compensate: bool = True
    """Rescale kept components to make up for removed ones."""
    batch_norm: bool = True
    """Re-estimate running means and variances."""
    cuts: int = 3
    """Number of cuts on the way to the target."""
    ridge: float = 1e-4
    """Added to the diagonal in the compensation, relative to its mean."""


def moments_of(sums: Tensors, groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """Return the moments of each consumer's inputs, minus the means if a batch norm removes these."""
    consumers = {consumer.name: consumer for group in groups.values() for consumer in group.consumers}
    found = {}
    for name, consumer in consumers.items():
        own = PatchSums(sums[f"{name}/gram"], sums[f"{name}/total"], int(sums[f"{name}/count"]))
        found[name] = own.moments(centred=consumer.batch_norm)
    return found


@torch.no_grad()
def settled(model: Classifier, ask: Ask) -> Classifier:
    """Return a copy, in evaluation mode, whose running means and variances are those of the inputs of its batch norms.

    They are of all samples together, normalised by these same means and variances. Each answer is final for the norms
    whose inputs it no longer changes, so there are at most as many questions as norms.
    """
    model = copy.deepcopy(model).eval()
    kept = set(batch_norms(model))
    norms = {name: module for name, module in model.named_modules() if module in kept}
    for _ in norms:
        sums, moved = ask("norms", model), 0.0
        for name, module in norms.items():
            assert isinstance(module, nn.modules.batchnorm._BatchNorm)
            count, old_mean, old_var = sums[f"{name}/count"], module.running_mean, module.running_var
            assert old_mean is not None
            assert old_var is not None
            mean = sums[f"{name}/total"] / count
            var = (sums[f"{name}/squares"] / count - mean.square()).clamp_min(0) * count / (count - 1)
            unit = var + module.eps
            moved = max(
                moved, float(((mean - old_mean).square() / unit).max()), float(((var - old_var) / unit).abs().max())
            )
            old_mean.copy_(mean)
            old_var.copy_(var)
        if moved < _STILL:
            break
    return model


def kept_channels(order: Mapping[str, Tensor], share: float) -> dict[str, Tensor]:
    """Return the kept channels (kept,) of each group: those below a share, and at least the first one."""
    kept = {}
    for name, places in order.items():
        below = (places < share).nonzero()[:, 0]
        kept[name] = below if len(below) else places.argmin()[None]
    return kept


def choose_channels(
    model: Classifier, groups: Mapping[str, ChannelGroup], order: Mapping[str, Tensor], target: Target, whole: Cost,
    positions: Mapping[str, int],
) -> dict[str, Tensor]:  # fmt: skip
    """Return the largest sets of channels, in rank order, that meet a target; its share is of the cost `whole`."""
    if target.of == "keep":
        return kept_channels(order, target.share)
    shares = torch.unique(torch.cat([*order.values(), torch.tensor([torch.inf])]))
    allowed = target.share * (whole.flops if target.of == "flops" else whole.parameters)
    low, high = 0, len(shares) - 1  # costs grow with the share, so bisect
    while low < high:
        middle = (low + high + 1) // 2
        kept = kept_channels(order, float(shares[middle]))
        now = cost(model, positions, groups, {name: len(channels) for name, channels in kept.items()})
        if (now.flops if target.of == "flops" else now.parameters) <= allowed:
            low = middle
        else:
            high = middle - 1
    return kept_channels(order, float(shares[low]))


@torch.no_grad()
def compensate(
    model: Classifier, groups: Mapping[str, ChannelGroup], keep: Mapping[str, Tensor], moments: Mapping[str, Tensor],
    ridge: float,
) -> None:  # fmt: skip
    """Rescale, in place, each consumer's weights of the kept channels.

    A group that keeps all channels keeps all bits.
    """
    for group in groups.values():
        if len(keep[group.name]) == group.channels:
            continue
        for consumer in group.consumers:
            weight = model.get_parameter(f"{consumer.name}.weight")
            slices = weight.double().reshape(len(weight), group.channels, -1)
            device = slices.device
            new = compensated(moments[consumer.name].to(device), slices, keep[group.name].to(device), ridge)
            weight.copy_(new.reshape(weight.shape))


def cut(
    model: Classifier, input_shape: tuple[int, ...], pruner: Pruner, options: PrunerConfig, target: Target,
    ask: Ask | None, how: Corrections, rng: np.random.Generator,
) -> Classifier:  # fmt: skip
    """Return a smaller copy of a model, in evaluation mode.

    Parameters
    ----------
    model
        Any model of the zoo.
    input_shape
        Shape of one sample.
    pruner, options
        The method that ranks the channels.
    target
        The target size; shares are relative to `model`.
    ask
        Returns sums over samples; None if there are none.
    how
        Corrections of the remaining weights; without samples none is possible.
    rng
        Generator for the method's draws.

    Raises
    ------
    FedsimError
        If the method needs samples and there are none, or no channel can be removed.
    """
    if ask is None and pruner.samples:
        raise FedsimError(f"--data none: {pruner.name} needs samples; use --data train, --data synthetic or l2")
    positions, model = layer_positions(model, input_shape), model.eval()
    whole = cost(model, positions)
    for number in range(1, how.cuts + 1):
        groups = channel_groups(model, input_shape)
        if not groups:
            raise FedsimError("model.name: this model has no channels that can be removed; use one with hidden layers")
        moments = {} if ask is None else moments_of(ask("patches", model), groups)
        order = pruner.order(PruningTask(model, groups, moments), options, rng)
        keep = choose_channels(model, groups, order, target.part(number, how.cuts), whole, positions)
        full = model
        if how.compensate and ask is not None:
            full = narrowed(model, groups, {})
            compensate(full, groups, keep, moments, how.ridge)
        model = narrowed(full, groups, keep)
        removed = any(len(keep[group.name]) < group.channels for group in groups.values())
        if removed and how.batch_norm and ask is not None:
            model = settled(model, ask)
    return model.eval()
