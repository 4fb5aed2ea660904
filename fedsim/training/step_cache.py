"""Records the operations of a local step under `torch.func` once per shape, and replays them afterwards.

vmap and grad transform a loss operation by operation, in Python, in every call. For small models this takes longer than
the operations themselves. A step that is called repeatedly with tensors of the same shapes is recorded as the list of
its operations and then replayed, with the same bits.

A recording may use several threads of torch if this gives the same bits in less time. Both are tried for each shape;
an operation divides its work over threads by shapes alone, not by values. The times are those of replays whose results
are used, so that a trial costs next to nothing. They are measured again from time to time, because threads wait for
each other, and on a busy machine they can take longer than one thread.
"""

from __future__ import annotations

import operator
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.node import map_aggregate
from torch.utils._python_dispatch import TorchDispatchMode

from fedsim.flower.records import Tensors
from fedsim.models.lanes import is_table
from fedsim.randomness import torch_draws

Step = Callable[..., tuple[Tensors, ...]]
"""(named tensors, ...) -> (named tensors, ...); it depends only on its arguments, and may write to them."""

_PATIENCE = 20  # calls before a recording, which costs as much time as 50 replays save
_REMEMBERED = 256  # shapes
_TRIED = 10  # replays with each number of threads
_TRIED_EVERY = 500  # replays
_WORTHWHILE = 0.8  # largest fraction of the one-thread time; with less gain, the cores are left to other processes


class Recorder:
    """Calls steps; a step that is called often with tensors of the same shapes is recorded and replayed.

    A recording is used only if it repeats the step bit for bit on its first arguments. A step that draws from something
    other than torch's generators, or has a tensor of its own, is called normally.
    """

    def __init__(self) -> None:
        self._calls: OrderedDict[Hashable, int] = OrderedDict()
        self._recordings: OrderedDict[Hashable, _Recording | None] = OrderedDict()
        self._threads = 1

    def allow_threads(self, count: int) -> None:
        """Let recordings use up to `count` threads of torch, if the bits stay the same and it takes less time."""
        self._threads = count

    def __call__(self, name: Hashable, step: Step, *given: Tensors) -> tuple[Tensors, ...]:
        """Return step(*given); equal names must stand for the same step."""
        tensors = _flat(given)
        key = (name, *map(tuple, given), *[(tensor.shape, tensor.stride(), tensor.dtype) for tensor in tensors])
        if key not in self._recordings:
            calls = self._calls.pop(key, 0) + 1
            if calls <= _PATIENCE:
                _remember(self._calls, key, calls)
                return step(*given)
            _remember(self._recordings, key, _record(step, given, tensors[0].device))
        recording = self._recordings[key]
        if recording is None:
            return step(*given)
        return recording(*given) if self._threads == 1 else recording.replay(self._threads, given)


class _Scribe(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch
    """Records, while it is entered, every operation on plain tensors as a graph."""

    def __init__(self, given: Sequence[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # torch
        self.graph = fx.Graph()
        self.tables: Tensors = {}
        """Tensors that nobody writes to."""
        self._nodes: dict[Hashable, fx.Node] = {}
        self._seen: list[Tensor] = []  # kept alive, so that no other tensor gets their memory
        for number, tensor in enumerate(given):
            self._note(tensor, self.graph.placeholder(f"given_{number}"))

    def _note(self, tensor: Tensor, node: fx.Node) -> None:
        node.meta["layout"] = _layout(tensor)
        self._nodes[_place(tensor)] = node
        self._seen.append(tensor)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False: torch's compiler is not used here, and the default would import it, which takes seconds."""
        return False

    def node_of(self, value: Any) -> Any:
        """Return the representation of a value in the graph: for a tensor its node; KeyError if there is none.

        Tensors with the same memory and layout are the same tensor, as autograd keeps copies of the Python objects.
        """
        if not isinstance(value, Tensor):
            return value
        if _place(value) not in self._nodes and is_table(value):
            name = f"table_{len(self.tables)}"
            self.tables[name] = value
            self._note(value, self.graph.get_attr(name))
        return self._nodes[_place(value)]

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Execute and record one operation."""
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
        self._threads, self._replays = 1, 0
        self._divides: bool | None = None  # whether several threads give the same bits
        self._spent: list[float] = []  # seconds of the replays of a trial

    @torch.no_grad()
    def __call__(self, *given: Tensors) -> tuple[Tensors, ...]:
        results = iter(self._replay(*_flat(given)))
        return tuple({name: next(results) for name in some} for some in self._names)

    def replay(self, most: int, given: Sequence[Tensors]) -> tuple[Tensors, ...]:
        """Return the results for `given`, computed with `most` threads if the last trial has shown that they help.

        A trial is the first replays of every `_TRIED_EVERY`: some with one thread, then some with all of them.
        """
        if self._divides is None:
            self._divides = self._keeps_bits(most, given)
        if not self._divides:
            return self(*given)
        place = self._replays % _TRIED_EVERY
        self._replays += 1
        if place == 2 * _TRIED:
            alone, together = median(self._spent[:_TRIED]), median(self._spent[_TRIED:])
            self._threads = most if together < _WORTHWHILE * alone else 1
        if place == 0:
            self._spent = []
        trying = place < 2 * _TRIED
        with _torch_threads((1 if place < _TRIED else most) if trying else self._threads):
            begun = time.perf_counter()
            results = self(*given)
            if trying:
                self._spent.append(time.perf_counter() - begun)
        return results

    def _keeps_bits(self, threads: int, given: Sequence[Tensors]) -> bool:
        """Return whether `threads` give the bits of one; the arguments are not changed."""
        outcomes = []
        for count in (1, threads):
            own = _copies(given)
            with _torch_threads(count), torch_draws(None, _flat(given)[0].device):
                outcomes.append((*self(*own), *own))
        return all(_same(*pair) for pair in zip(*outcomes, strict=True))


@contextmanager
def _torch_threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _flat(given: Sequence[Tensors]) -> list[Tensor]:
    return [tensor for some in given for tensor in some.values()]


def _record(step: Step, given: Sequence[Tensors], device: torch.device) -> _Recording | None:
    """Return a recording that repeats the step, or None if that is impossible; the arguments are not changed."""
    try:
        with torch_draws(None, device):
            recording = _Recording(step, _copies(given))
        outcomes = []
        for call in (step, recording):
            own = _copies(given)
            with torch_draws(None, device):
                outcomes.append((*call(*own), *own))
    except Exception:  # a loss that cannot be recorded can still be called
        return None
    return recording if all(_same(*pair) for pair in zip(*outcomes, strict=True)) else None


def _copies(given: Sequence[Tensors]) -> list[Tensors]:
    """Return copies to write to, with the same memory layout."""

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
    """Drop views, and chains of views, that equal their base tensor, and nodes without users."""
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
