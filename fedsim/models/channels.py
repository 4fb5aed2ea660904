"""Channels that can be removed: which layers produce, normalise and read them; and models without some channels.

A *group* is a set of channels that are removed together. For example, channel i of a residual stream is produced by
every convolution that is added to the stream, normalised by their norms, and read by every later layer, including the
classifier. The network is traced with `torch.fx`, and channels are followed from layer to layer. Channels that enter an
operation that mixes or reorders them, such as attention, are never removed.
"""

from __future__ import annotations

import copy
import math
import operator
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier

Layer = nn.Conv2d | nn.Linear
Keep = Mapping[str, Tensor]
"""{group: (kept channels,) int64, ascending}; a group without an entry keeps all channels."""

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d)
_SAME_CHANNELS = (
    *(nn.ReLU, nn.GELU, nn.SiLU, nn.Tanh, nn.Identity, nn.Dropout, nn.Dropout2d),
    *(nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d),
)
_SAME_CHANNELS_FUNCTIONS = (F.relu, torch.relu, F.gelu, F.max_pool2d, F.avg_pool2d, F.adaptive_avg_pool2d)
_ADDITIONS = (operator.add, operator.iadd, torch.add)


@dataclass(frozen=True)
class Consumer:
    """A layer that reads a group."""

    name: str
    inputs_per_channel: int
    """The layer's inputs per channel: 1, or height times width after a `Flatten`."""
    batch_norm: bool
    """Whether a batch norm follows directly; it removes the mean of the layer's output."""


@dataclass(frozen=True)
class ChannelGroup:
    """Channels that are removed together. The names are those of the model's modules."""

    name: str
    """The name of its first producer, without `features.`, and with `/` instead of `.`."""
    channels: int
    producers: tuple[str, ...]
    norms: tuple[str, ...]
    consumers: tuple[Consumer, ...]


@dataclass
class _Space:
    """Channels on their way through the network; spaces that are added become one space."""

    channels: int
    fixed: bool = False
    producers: list[str] = field(default_factory=list)
    norms: list[str] = field(default_factory=list)
    consumers: list[Consumer] = field(default_factory=list)

    def absorb(self, other: _Space) -> None:
        self.fixed = self.fixed or other.fixed or self.channels != other.channels
        for mine, theirs in ((self.producers, other.producers), (self.norms, other.norms)):
            mine += theirs
        self.consumers += other.consumers


@dataclass(frozen=True)
class _Value:
    """The output of a graph node: its space of channels, and the entries of the last dimension per channel."""

    space: int
    entries: int = 1


class _Channels(fx.Interpreter):
    """Follows the channels in one forward pass of one sample."""

    def __init__(self, model: Classifier) -> None:
        super().__init__(fx.symbolic_trace(model))
        self.spaces: list[_Space] = []
        self.merged: dict[int, int] = {}
        self.of: dict[fx.Node, _Value] = {}
        self.positions: dict[str, int] = {}
        """{layer: number of positions at which it is applied for one sample}."""

    def root(self, space: int) -> int:
        while space in self.merged:
            space = self.merged[space]
        return space

    def run_node(self, n: fx.Node) -> object:
        out = super().run_node(n)
        if isinstance(out, Tensor):
            self.of[n] = self.value(n, out)
        return out

    def value(self, node: fx.Node, out: Tensor) -> _Value:
        module = self.module.get_submodule(str(node.target)) if node.op == "call_module" else None
        before = [self.of[argument] for argument in node.all_input_nodes if argument in self.of]
        if isinstance(module, Layer) and len(before) == 1 and getattr(module, "groups", 1) == 1:
            return self.layer(node, module, before[0], out)
        same = isinstance(module, _SAME_CHANNELS) or node.target in _SAME_CHANNELS_FUNCTIONS
        if same and len(before) == 1:
            return before[0]
        if isinstance(module, _BATCH_NORMS) and before[0].entries == 1:
            self.spaces[self.root(before[0].space)].norms.append(str(node.target))
            return before[0]
        if (isinstance(module, nn.Flatten) or node.target is torch.flatten) and len(before) == 1:
            return self.flat(node, before[0], out)
        if node.target in _ADDITIONS and len(before) == 2 and before[0].entries == before[1].entries == 1:
            return self.sum(*before)
        return self.unknown(before)

    def layer(self, node: fx.Node, module: Layer, before: _Value, out: Tensor) -> _Value:
        name = str(node.target)
        follower = next(iter(node.users)) if len(node.users) == 1 else None
        batch_norm = (
            follower is not None
            and follower.op == "call_module"
            and isinstance(self.module.get_submodule(str(follower.target)), _BATCH_NORMS)
        )
        consumer = Consumer(name, before.entries, batch_norm)
        self.spaces[self.root(before.space)].consumers.append(consumer)
        width = out.shape[1 if isinstance(module, nn.Conv2d) else -1]
        self.positions[name] = out[0].numel() // width
        self.spaces.append(_Space(width, producers=[name]))
        return _Value(len(self.spaces) - 1)

    def flat(self, node: fx.Node, before: _Value, out: Tensor) -> _Value:
        channels = self.spaces[self.root(before.space)].channels
        whole = out.ndim == 2 and channels > 0 and out.shape[1] % channels == 0
        return _Value(before.space, out.shape[1] // channels) if whole else self.unknown([before])

    def sum(self, left: _Value, right: _Value) -> _Value:
        a, b = self.root(left.space), self.root(right.space)
        if a != b:
            self.spaces[a].absorb(self.spaces[b])
            self.merged[b] = a
        return _Value(a)

    def unknown(self, before: list[_Value]) -> _Value:
        """Fix the channels that enter an unknown operation: they are never removed. Return a new fixed space."""
        for value in before:
            self.spaces[self.root(value.space)].fixed = True
        self.spaces.append(_Space(0, fixed=True))
        return _Value(len(self.spaces) - 1)


def _followed(model: Classifier, input_shape: tuple[int, ...]) -> _Channels:
    weight = next(model.parameters())
    try:
        walk = _Channels(copy.deepcopy(model).eval())
    except (
        TypeError,
        ValueError,
        RuntimeError,
        AttributeError,
    ) as error:  # raised by the model's code
        reason = " ".join(str(error).split())[:120]
        raise FedsimError(f"model.name: its channels cannot be followed ({reason}); use another") from None
    with torch.no_grad():
        walk.run(torch.zeros(1, *input_shape, dtype=weight.dtype, device=weight.device))
    return walk


def channel_groups(model: Classifier, input_shape: tuple[int, ...]) -> dict[str, ChannelGroup]:
    """Return the groups of channels that can be removed, {name: group}, from input to output.

    Parameters
    ----------
    model
        a classifier; it is not changed
    input_shape
        shape of one sample

    Raises
    ------
    FedsimError
        If the model uses group norm: with fewer channels, other channels would share a mean. Or if its code depends on
        values, so that it cannot be traced.
    """
    if any(isinstance(module, nn.GroupNorm) for module in model.modules()):
        raise FedsimError("model.norm: group norm shares a mean among channels, so none can be removed; use batch")
    walk = _followed(model, input_shape)
    order = {name: place for place, name in enumerate(walk.positions)}
    groups = {}
    for number, space in enumerate(walk.spaces):
        if number not in walk.merged and not space.fixed and space.consumers:
            producers = sorted(space.producers, key=order.__getitem__)
            name = producers[0].removeprefix("features.").replace(".", "/")  # a dot would split a configuration key
            groups[name] = ChannelGroup(
                name, space.channels, tuple(producers), tuple(space.norms), tuple(space.consumers)
            )
    return dict(sorted(groups.items(), key=lambda item: order[item[1].producers[0]]))


def _inputs(consumer: Consumer, channels: Tensor) -> Tensor:
    """Return which inputs of a consumer belong to the channels."""
    each = torch.arange(consumer.inputs_per_channel, device=channels.device)
    return (channels[:, None] * consumer.inputs_per_channel + each).reshape(-1)


def narrowed(model: Classifier, groups: Mapping[str, ChannelGroup], keep: Keep) -> Classifier:
    """Return a copy with the kept channels only; if all are kept, the copy has the same bits."""
    model = copy.deepcopy(model)
    for group in groups.values():
        if group.name not in keep:
            continue
        channels = keep[group.name]
        for name in (*group.producers, *group.norms):
            _cut(model.get_submodule(name), channels, dim=0)
        for consumer in group.consumers:
            _cut(model.get_submodule(consumer.name), _inputs(consumer, channels), dim=1)
    model.feature_dim = model.classifier.in_features
    return model


def _cut(module: nn.Module, keep: Tensor, dim: int) -> None:
    """Keep only some of a layer's outputs (dim 0) or inputs (dim 1), in place."""
    tensors = dict(module.named_parameters(recurse=False)) | dict(module.named_buffers(recurse=False))
    for name, value in tensors.items():
        if value.ndim > dim:
            short = value.detach().index_select(dim, keep.to(value.device)).contiguous()
            setattr(module, name, nn.Parameter(short) if isinstance(value, nn.Parameter) else short)
    count = len(keep)
    if isinstance(module, nn.Conv2d):
        setattr(module, "in_channels" if dim else "out_channels", count)
    elif isinstance(module, nn.Linear):
        setattr(module, "in_features" if dim else "out_features", count)
    elif isinstance(module, _BATCH_NORMS):
        module.num_features = count


def with_widths(model: Classifier, input_shape: tuple[int, ...], widths: Mapping[str, int]) -> Classifier:
    """Return a model with the first `widths[name]` channels of each group: the shape of a narrowed model.

    Raises
    ------
    FedsimError
        If a group does not exist, or has fewer channels.
    """
    groups = channel_groups(model, input_shape)
    for name, count in widths.items():
        if name not in groups:
            raise FedsimError(f"model.widths: this model has no channel group {name!r}; it has: {', '.join(groups)}")
        if not 1 <= count <= groups[name].channels:
            raise FedsimError(f"model.widths: {name} has 1 to {groups[name].channels} channels; got {count}")
    return narrowed(model, groups, {name: torch.arange(count) for name, count in widths.items()})


def layer_positions(model: Classifier, input_shape: tuple[int, ...]) -> dict[str, int]:
    """Return {layer: positions at which it is applied for one sample}; removing channels does not change them."""
    return _followed(model, input_shape).positions


@dataclass(frozen=True)
class Cost:
    """The cost of one forward pass of one sample."""

    flops: int
    """Two per weight and position of convolutions and linear layers; other operations are not counted."""
    parameters: int
    """Number of parameters."""


def cost(
    model: Classifier, positions: Mapping[str, int], groups: Mapping[str, ChannelGroup] | None = None,
    counts: Mapping[str, int] | None = None,
) -> Cost:  # fmt: skip
    """Return the cost of a model from its `layer_positions`; with `counts`, the cost of the narrowed model.

    `counts` holds channels per group; other groups keep all of their channels. No narrowed model is built.
    """
    shapes = {name: list(value.shape) for name, value in model.named_parameters()}
    for name, count in (counts or {}).items():
        group = (groups or {})[name]
        for layer in (*group.producers, *group.norms):
            for parameter in (f"{layer}.weight", f"{layer}.bias"):
                if parameter in shapes:
                    shapes[parameter][0] = count
        for consumer in group.consumers:
            shapes[f"{consumer.name}.weight"][1] = count * consumer.inputs_per_channel
    flops = sum(2 * math.prod(shapes[f"{name}.weight"]) * times for name, times in positions.items())
    return Cost(flops, sum(map(math.prod, shapes.values())))
