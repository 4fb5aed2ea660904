"""What `torch.func` makes of a local step, written down once per shape and done from then on without asking it again.

vmap and grad rewrite a loss operation by operation, in Python, in every call: for small models that takes longer than
the operations themselves. A step that comes again and again with tensors of the same shapes is recorded, as the list of
operations that it came to, and replayed, to the same bits.
"""

from __future__ import annotations

import operator
from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim.flower.records import Tensors
from fedsim.models.lanes import is_table
from fedsim.randomness import torch_draws

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


class _Scribe(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Writes down every operation on plain tensors that happens while it is entered, as a graph."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.graph = fx.Graph()
        self.tables: Tensors = {}
        """Tensors that nobody writes to."""
        self._nodes: dict[Hashable, fx.Node] = {}
        self._seen: list[Tensor] = []  # while they live, no other tensor takes their place in memory
        for number, tensor in enumerate(given):
            self._note(tensor, self.graph.placeholder(f"given_{number}"))

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        node.meta["layout"] = _layout(tensor)
        self._nodes[_place(tensor)] = node
        self._seen.append(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Say no, as torch's compiler is not in use here: to tell it would import it, for longer than many a run."""
        return False

    def node_of(self, value: Any) -> Any:
        """Return what stands for a value in the graph: for a tensor its node, which raises KeyError if there is none.

        What shows the same numbers in the same place is the same tensor: autograd keeps copies of the objects.
        """
        if not isinstance(value, Tensor):
            return value
        if _place(value) not in self._nodes and is_table(value):
            name = f"table_{len(self.tables)}"
            self.tables[name] = value
            self._note(value, self.graph.get_attr(name))
        return self._nodes[_place(value)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Do and note one operation."""
        if _LOOKS & set(func.tags):
            raise ValueError(f"{func} depends on values")
        result = func(*args, **(kwargs or {}))
        named: Any = [map_aggregate(some, self.node_of) for some in (tuple(args), kwargs or {})]
        node = self.graph.call_function(func, *named)
        if isinstance(result, Tensor):
            self._note(result, node)
        for number, part in enumerate(result if isinstance(result, tuple | list) else ()):
            if isinstance(part, Tensor):
                self._note(part, self.graph.call_function(operator.getitem, (node, number)))
        return result


_LOOKS = {torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape}


def _layout(tensor: Tensor) -> tuple[Any, ...]:
    return tensor.shape, tensor.stride(), tensor.storage_offset(), tensor.dtype


def _place(tensor: Tensor) -> Hashable:
    return tensor.untyped_storage().data_ptr(), *_layout(tensor)


class _Recording:
    """The operations of a step on tensors of some shapes."""

    def __init__(self, step: Step, given: Sequence[Tensors]) -> None:
        with _Scribe(_flat(given)) as scribe:
            results = step(*given)
        self._names = [list(some) for some in results]
        scribe.graph.output([scribe.node_of(tensor) for tensor in _flat(results)])
        _drop_idle_views(scribe.graph)
        root: dict[str, Any] = dict(scribe.tables)
        self._replay: Callable[..., list[Tensor]] = fx.GraphModule(root, scribe.graph).forward

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


def _drop_idle_views(graph: fx.Graph) -> None:
    """Drop views, and chains of views, that show a tensor just as it was, and all that leads nowhere."""
    for node in graph.nodes:
        base = node
        while base.op == "call_function" and getattr(base.target, "is_view", False):
            base = base.args[0]
            if base.meta["layout"] == node.meta["layout"]:
                node.replace_all_uses_with(base)
                break
    graph.eliminate_dead_code()


def _remember(known: OrderedDict[Hashable, Any], key: Hashable, value: Any) -> None:
    known[key] = value
    if len(known) > _REMEMBERED:
        known.popitem(last=False)
