"""What `torch.func` makes of a local step, written down once per shape and done from then on without asking it again.

vmap and grad rewrite a loss operation by operation, in Python, in every call: for small models that takes longer than
the operations themselves. A step that comes again and again with tensors of the same shapes is recorded, as the list of
operations that it came to, and replayed, to the same bits.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx

from fedsim.randomness import torch_draws
from fedsim.records import Tensors

Step = Callable[..., tuple[Tensors, ...]]
"""(named tensors, ...) -> (named tensors, ...), which depends on nothing else, but may write to what it is given."""

_PATIENCE = 20  # calls before a recording, which takes as long as some 50 of them save
_REMEMBERED = 256  # shapes


class Recorder:
    """Calls steps; those called often with tensors of the same shapes it replays.

    A recording is used only if it repeats the step on its first tensors to the bit: a step that draws from elsewhere
    than torch's generators, or holds a tensor of its own, is called as before.
    """

    def __init__(self) -> None:
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._recordings: OrderedDict[Hashable, _Recording | None] = OrderedDict()

    def __call__(self, name: Hashable, step: Step, *given: Tensors) -> tuple[Tensors, ...]:
        """Return step(*given); equal names stand for the same step."""
        tensors = _flat(given)
        key = (name, *map(tuple, given), *[(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors])
        if key not in self._recordings:
            calls = self._calls.pop(key, 0) + 1
            if calls <= _PATIENCE:
                _remember(self._calls, key, calls)
                return step(*given)
            _remember(self._recordings, key, _record(step, given, tensors[0].device))
        recording = self._recordings[key]
        return (recording or step)(*given)


class _Recording:
    """The operations of a step on tensors of some shapes."""

    def __init__(self, step: Step, given: Sequence[Tensors]) -> None:
        from torch.fx.experimental.proxy_tensor import make_fx  # here: what it imports takes half a second

        self._names: list[list[str]] = []

        def flat(*tensors: Tensor) -> list[Tensor]:
            left = iter(tensors)
            results = step(*({name: next(left) for name in some} for some in given))
            self._names = [list(some) for some in results]
            return _flat(results)

        module: fx.GraphModule = make_fx(flat)(*_flat(given))
        if any(node.op == "get_attr" for node in module.graph.nodes):
            raise ValueError("the step holds a tensor of its own")
        _without_idle_views(module)
        self._replay: Callable[..., list[Tensor]] = module.forward

    @torch.no_grad()
    def __call__(self, *given: Tensors) -> tuple[Tensors, ...]:
        results = iter(self._replay(*_flat(given)))
        return tuple({name: next(results) for name in some} for some in self._names)


def _flat(given: Sequence[Tensors]) -> list[Tensor]:
    return [tensor for some in given for tensor in some.values()]


def _record(step: Step, given: Sequence[Tensors], device: torch.device) -> _Recording | None:
    """Return a recording that does as the step does, None if there is none; nothing given is written to."""
    try:
        with torch_draws(None, device):
            recording = _Recording(step, _copies(given))
        outcomes = []
        for call in (step, recording):
            own = _copies(given)
            with torch_draws(None, device):
                outcomes.append((*call(*own), *own))
    except Exception:  # whatever a loss does that cannot be written down, it can still be called
        return None
    return recording if all(_same(*pair) for pair in zip(*outcomes, strict=True)) else None


def _copies(given: Sequence[Tensors]) -> list[Tensors]:
    """Return tensors to write to, laid out as those given."""

    def copy(tensor: Tensor) -> Tensor:
        overlapping = any(step == 0 < size - 1 for size, step in zip(tensor.shape, tensor.stride(), strict=True))
        like = torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=tensor.device)
        return tensor if overlapping else like.copy_(tensor)

    return [{name: copy(tensor) for name, tensor in some.items()} for some in given]


def _same(one: Tensors, other: Tensors) -> bool:
    return one.keys() == other.keys() and all(
        torch.allclose(value, other[name], rtol=0, atol=0, equal_nan=True) for name, value in one.items()
    )


def _without_idle_views(module: fx.GraphModule) -> None:
    """Drop views, and chains of views, that show a tensor just as it was."""
    for node in module.graph.nodes:
        base = node
        while base.op == "call_function" and (getattr(base.target, "is_view", False)):
            base = base.args[0]
            if _shown(base) == _shown(node):
                node.replace_all_uses_with(base)
                break
    module.graph.eliminate_dead_code()
    module.recompile()


def _shown(node: fx.Node) -> tuple[Any, ...]:
    value = node.meta["val"]
    return value.shape, value.stride(), value.storage_offset(), value.dtype


def _remember(known: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
