"""Flower records over live tensors: bytes are made only when somebody asks for them."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from flwr.app import Array, ArrayRecord, MetricRecord, RecordDict
from torch import Tensor

Tensors = dict[str, Tensor]


class TensorArray(Array):
    """A Flower `Array` backed by a tensor; any Flower strategy can read it, and `.tensor` costs nothing.

    The tensor is shared, not copied: whoever makes one no longer writes to it.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.__dict__["tensor"] = tensor.detach()

    tensor: Tensor

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """Numpy's name of the element type."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape, () for a scalar."""
        return tuple(self.tensor.shape)

    @property
    def stype(self) -> str:  # type: ignore[override]
        """How `data` is encoded, in Flower's words."""
        return "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The `.npy` encoding, made anew at each access."""
        buffer = io.BytesIO()
        np.save(buffer, self.tensor.cpu().numpy(), allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> npt.NDArray[Any]:
        """Return a writable copy, as Flower's own arrays do."""
        return self.tensor.cpu().numpy().copy()

    def deflate(self) -> bytes:
        """Return what Flower sends first; it names the class, and the receiver knows Flower's own only."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[Any, ...]:
        # A contiguous numpy array is pickled out of band: Ray keeps it as one shared, zero-copy buffer.
        return _from_numpy, (np.ascontiguousarray(self.tensor.cpu().numpy()).reshape(self.shape),)


def _from_numpy(array: npt.NDArray[Any]) -> TensorArray:
    tensor = from_numpy(array)
    # Matrix products may round by where a matrix lies. Torch's own tensors lie at multiples of 64; of what was
    # pickled out of band, small arrays may not.
    return TensorArray(tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor)


_ALIGNMENT = 64


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor over an array's memory, read-only arrays included; whoever gets one does not write to it."""
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Lent(array)))


class _Lent:
    """Shows a read-only array as a writable one, as which torch takes it without a warning."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Wrap named tensors; nothing is copied or encoded."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = TensorArray(tensor)
    return record


def to_tensors(record: ArrayRecord, device: torch.device | str = "cpu") -> Tensors:
    """Return the named tensors of a record on `device`: shared where they live there already, else decoded."""
    return {
        name: (array.tensor if isinstance(array, TensorArray) else torch.from_numpy(array.numpy())).to(device)
        for name, array in record.items()
    }


def copy_records(records: RecordDict) -> RecordDict:
    """Return new records over the same arrays: a client that edits its message edits nobody else's."""
    return RecordDict({key: record.copy() for key, record in records.items()})


def scalars(record: MetricRecord | Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a metric record as floats; lists are left out."""
    return {name: float(value) for name, value in record.items() if not isinstance(value, list)}
