"""Store one client's records as a safetensors file: arrays as tensors, the rest as JSON in its header."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from fedsim.errors import FedsimError
from fedsim.flower.records import TensorArray
from fedsim.sealed import sha256

_HEADER = "records"


def write_records(path: Path, records: RecordDict) -> str:
    """Write records to `path`; return the file's SHA-256. Keys and names keep their order: sums depend on it."""
    tensors: dict[str, Tensor] = {}
    header: list[list[Any]] = []
    for key, record in records.items():
        if isinstance(record, ArrayRecord):
            described: list[Any] = []
            for name, array in record.items():
                where = str(len(tensors))
                if isinstance(array, TensorArray):
                    tensors[where] = array.tensor.cpu().contiguous().clone()  # two names may share memory
                    described.append([name, where])
                else:  # its bytes may have any encoding
                    tensors[where] = torch.frombuffer(bytearray(array.data), dtype=torch.uint8) if array.data else _NONE
                    described.append([name, where, array.dtype, list(array.shape), array.stype])
            header.append([key, "arrays", described])
        else:
            kind = "metrics" if isinstance(record, MetricRecord) else "config"
            header.append([key, kind, [[name, _to_json(value)] for name, value in record.items()]])
    content = save(tensors, {_HEADER: json.dumps(header)})
    path.write_bytes(content)
    return hashlib.sha256(content).hexdigest()


_NONE = torch.empty(0, dtype=torch.uint8)


def read_records(path: Path, digest: str | None = None) -> RecordDict:
    """Return the records in a file of `write_records`.

    Raises
    ------
    FedsimError
        If the file cannot be read, or its SHA-256 is not `digest`.
    """
    try:
        if digest is not None and sha256(path) != digest:
            raise FedsimError(f"{path}: is not what was written (its checksum does not match)")
        with safe_open(path, framework="pt") as file:
            records = RecordDict()
            for key, kind, entries in json.loads(file.metadata()[_HEADER]):
                if kind == "arrays":
                    arrays = ArrayRecord()
                    for name, where, *encoded in entries:
                        tensor = file.get_tensor(where)
                        if encoded:
                            dtype, shape, stype = encoded
                            arrays[name] = Array(dtype, tuple(shape), stype, tensor.numpy().tobytes())
                        else:
                            arrays[name] = TensorArray(tensor)
                    records[key] = arrays
                else:
                    values = {name: _from_json(value) for name, value in entries}
                    records[key] = MetricRecord(values) if kind == "metrics" else ConfigRecord(values)
            return records
    except (OSError, SafetensorError, ValueError, KeyError, TypeError) as error:
        raise FedsimError(f"{path}: not a readable client state ({type(error).__name__})") from None


def size_bytes(records: RecordDict) -> int:
    """Return the approximate memory of records, in bytes."""
    return 1000 + sum(
        array.tensor.nbytes if isinstance(array, TensorArray) else len(array.data)
        for record in records.array_records.values()
        for array in record.values()
    )


def _to_json(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return [_to_json(v) for v in value] if isinstance(value, list) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, dict):
        return bytes.fromhex(value["hex"])
    return [_from_json(v) for v in value] if isinstance(value, list) else value
