"""Flower records that hold tensors; they are encoded as bytes only on demand."""

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
    """A Flower `Array` that holds a tensor. Any Flower strategy can read it, and `.tensor` needs no decoding.

    The tensor is shared, not copied: do not write to it afterwards.
    """

    def __init__(self, tensor: Tensor) -> None:
        self.__dict__["tensor"] = tensor.detach()

    tensor: Tensor

    @property
    def dtype(self) -> str:  # type: ignore[override]
        """The element type's name in NumPy."""
        return str(self.tensor.dtype).removeprefix("torch.")

    @property
    def shape(self) -> tuple[int, ...]:  # type: ignore[override]
        """The shape; () for a scalar."""
        return tuple(self.tensor.shape)

    @property
    def stype(self) -> str:  # type: ignore[override]
        """Flower's name for the encoding of `data`."""
        return "numpy.ndarray"

    @property
    def data(self) -> bytes:  # type: ignore[override]
        """The `.npy` encoding, computed at each access."""
        buffer = io.BytesIO()
        np.save(buffer, self.tensor.cpu().numpy(), allow_pickle=False)
        return buffer.getvalue()

    def numpy(self) -> npt.NDArray[Any]:
        """Return a writable copy, as Flower's own arrays do."""
        return self.tensor.cpu().numpy().copy()

    def deflate(self) -> bytes:
        """Return the serialised form: that of a plain `Array`, because the receiver only knows Flower's own classes."""
        return Array(self.dtype, self.shape, self.stype, self.data).deflate()

    def __reduce__(self) -> tuple[Any, ...]:
        # A contiguous numpy array is pickled out of band: Ray keeps it as one shared, zero-copy buffer.
        return _from_numpy, (np.ascontiguousarray(self.tensor.cpu().numpy()).reshape(self.shape),)


def _from_numpy(array: npt.NDArray[Any]) -> TensorArray:
    tensor = from_numpy(array)
    # The rounding of matrix products may depend on the memory alignment. Torch aligns its own tensors to 64 bytes;
    # small arrays that were pickled out of band may be aligned otherwise.
    return TensorArray(tensor.clone() if tensor.data_ptr() % _ALIGNMENT else tensor)


_ALIGNMENT = 64


def from_numpy(array: npt.NDArray[Any]) -> Tensor:
    """Return a tensor over an array's memory, also if the array is read-only; do not write to the tensor."""
    return torch.from_numpy(array if array.flags.writeable else np.asarray(_Lent(array)))


class _Lent:
    """Presents a read-only array as a writable one, so that torch accepts it without a warning."""

    def __init__(self, array: npt.NDArray[Any]) -> None:
        self.array = array
        self.__array_interface__ = {**array.__array_interface__, "data": (array.ctypes.data, False)}


def to_record(tensors: Mapping[str, Tensor]) -> ArrayRecord:
    """Return a record of named tensors; nothing is copied or encoded."""
    record = ArrayRecord()
    for name, tensor in tensors.items():
        record[name] = TensorArray(tensor)
    return record


def to_tensors(record: ArrayRecord, device: torch.device | str = "cpu") -> Tensors:
    """Return the named tensors of a record on `device`. Tensors that are there already are shared, not copied."""
    return {
        name: (array.tensor if isinstance(array, TensorArray) else torch.from_numpy(array.numpy())).to(device)
        for name, array in record.items()
    }


def copy_records(records: RecordDict) -> RecordDict:
    """Return new records over the same arrays, so that a client's edits of its message affect no other client."""
    return RecordDict({key: record.copy() for key, record in records.items()})


def scalars(record: MetricRecord | Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a metric record as floats, without its lists."""
    return {name: float(value) for name, value in record.items() if not isinstance(value, list)}
