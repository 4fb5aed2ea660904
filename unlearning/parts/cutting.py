"""From an order of channels to a smaller model: how much to keep, compensation, batch norm, and again.

One cut, as in Algorithm 1 of "ModHiFi" (arXiv:2511.19566): take moments of what each layer reads, order the channels,
drop all beyond the share that meets the target, rescale what is kept, re-estimate batch norm. Several cuts come to the
target in equal ratios, each with moments of the model before it.
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
"""Change of means and variances, in variances, that is none."""


@dataclass(frozen=True)
class Target:
    """How small: `share` of the floating-point operations, of the parameters, or (keep) of each ranking."""

    of: Quantity
    share: float

    @classmethod
    def parse(cls, text: str) -> Target:
        """Return the target in `flops=0.5`, `params=0.5` or `keep=0.9`.

        Raises
        ------
        FedsimError
            If it is none of these.
        """
        match = re.fullmatch(rf"({'|'.join(get_args(Quantity))})=(\d*\.?\d+(?:[eE]-?\d+)?)", text.strip())
        if match is None or not 0 < float(match[2]) <= 1:
            raise FedsimError(f"--target {text}: must be flops=, params= or keep= and a share above 0, at most 1")
        return cls(match[1], float(match[2]))  # type: ignore[arg-type]  # the pattern admits these only

    def part(self, number: int, of: int) -> Target:
        """Return the target of cut `number` of several: shares multiply to the whole."""
        return Target(self.of, self.share ** (number / of))


@dataclass(frozen=True)
class Corrections:
    """What is done with the weights that stay."""

    compensate: bool = True
    """Rescale kept components to rebuild what is lost."""
    batch_norm: bool = True
    """Re-estimate running means and variances."""
    cuts: int = 3
    """Cuts on the way to the target."""
    ridge: float = 1e-4
    """Added to the diagonal in the compensation, in units of its mean."""


def moments_of(sums: Tensors, groups: Mapping[str, ChannelGroup]) -> dict[str, Tensor]:
    """Return the moments of what each consumer reads, less the means where a batch norm takes them out."""
    consumers = {consumer.name: consumer for group in groups.values() for consumer in group.consumers}
    found = {}
    for name, consumer in consumers.items():
        own = PatchSums(sums[f"{name}/gram"], sums[f"{name}/total"], int(sums[f"{name}/count"]))
        found[name] = own.moments(centred=consumer.batch_norm)
    return found


@torch.no_grad()
def settled(model: Classifier, ask: Ask) -> Classifier:
    """Return a copy, in evaluation mode, whose running means and variances are those of what its batch norms get.

    They are of all samples together, normalised by just these means and variances: each answer is right for the norms
    whose inputs it does not change any more, so that there are at most as many questions as norms.
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
    """Return the channels (kept,) of each group below a share, and at least the first one."""
    kept = {}
    for name, places in order.items():
        below = (places < share).nonzero()[:, 0]
        kept[name] = below if len(below) else places.argmin()[None]
    return kept


def choose_channels(
    model: Classifier, groups: Mapping[str, ChannelGroup], order: Mapping[str, Tensor], target: Target, whole: Cost,
    positions: Mapping[str, int],
) -> dict[str, Tensor]:  # fmt: skip
    """Return the most channels, in order, that meet a target; `whole` is the cost that its share is of."""
    if target.of == "keep":
        return kept_channels(order, target.share)
    shares = torch.unique(torch.cat([*order.values(), torch.tensor([torch.inf])]))
    allowed = target.share * (whole.flops if target.of == "flops" else whole.parameters)
    low, high = 0, len(shares) - 1  # costs grow with the share: bisection
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
    """Rescale, in place, what each consumer reads of the kept channels; a group that keeps all stays bit for bit."""
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
        What orders the channels.
    target
        How small; shares are of `model`.
    ask
        Gives sums over samples; None without any.
    how
        What is done with the weights that stay; without samples nothing can be.
    rng
        Of the method's draws.

    Raises
    ------
    FedsimError
        If the method needs samples and there are none, or no channel can be removed.
    """
    if ask is None and pruner.samples:
        raise FedsimError(f"--data none: {pruner.name} looks at samples; use --data train, --data synthetic or l2")
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
