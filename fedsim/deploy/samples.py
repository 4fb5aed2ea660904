"""The common description of the samples of all nodes, and the conversion of a node's samples to fedsim's format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, ValidationError

from fedsim.data.datasets import Dataset
from fedsim.data.federation import FederatedData
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError

Arrays = Mapping[str, npt.ArrayLike]
"""x and y; optionally x_test and y_test, if a node evaluates models on its own samples."""


class Samples(BaseModel):
    """Shape, classes and scale of the samples of all nodes."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    name: str
    """Name of the data set."""
    input_shape: tuple[int, ...]
    """(C, H, W) of an image, (D,) of a row."""
    outputs: int
    """Number of classes, or 1 if numbers are predicted."""
    numbers: bool
    """Whether numbers are predicted."""
    mean: tuple[float, ...]
    """Mean of each channel, of pixels / 255; or of each column of scaled rows."""
    std: tuple[float, ...]
    centre: tuple[float, ...] | None = None
    """Centre of each column of a row: x = (a node's own number - centre) / unit."""
    unit: tuple[float, ...] | None = None
    target: tuple[float, float] | None = None
    """(centre, unit) of the numbers to predict, in the same sense."""
    class_names: tuple[str, ...] | None = None

    @classmethod
    def of(cls, dataset: Dataset) -> Samples:
        """Return the description of a data set."""
        centre, unit = dataset.input_scale or (None, None)
        return cls(
            name=dataset.name, input_shape=dataset.input_shape, outputs=dataset.num_classes,
            numbers=dataset.is_regression, mean=dataset.mean, std=dataset.std, centre=centre, unit=unit,
            target=dataset.target_scale, class_names=dataset.class_names,
        )  # fmt: skip

    @classmethod
    def read(cls, path: Path) -> Samples:
        """Return the description in a file of an app; refuse another file with a one-line error."""
        try:
            return cls.model_validate_json(path.read_bytes())
        except (OSError, ValidationError) as error:
            reason = " ".join(str(error).split())
            raise FedsimError(f"{path}: cannot be read ({reason}); correct it, or write the app anew") from None

    def node(self, client: int, clients: int, given: Arrays) -> FederatedData:
        """Return a federation in which only one client's samples are present.

        Raises
        ------
        FedsimError
            If the samples have another shape or other classes.
        """
        x, y = self._pair(given, "x", "y")
        x_test, y_test = self._pair(given, "x_test", "y_test") if "x_test" in given else (x[:0], y[:0])
        counts = [len(y) if k == client else 0 for k in range(clients)]
        tests = [len(y_test) if k == client else 0 for k in range(clients)]
        return self._federation(x, y, x_test, y_test, _consecutive(counts), _consecutive(tests))

    def server(self, sizes: Sequence[int], given: Arrays) -> FederatedData:
        """Return a federation with clients of these sizes, without their samples, and with the server's test set.

        The server does not know the clients' labels, so it assumes equal class frequencies.
        """
        x_test, y_test = self._pair(given, "x", "y")
        blank = np.zeros((self.outputs, *self.input_shape), x_test.dtype)
        labels = np.zeros(self.outputs, np.float32) if self.numbers else np.arange(self.outputs)
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        partition = Partition(np.arange(offsets[-1]) % self.outputs, offsets)
        return self._federation(blank, labels, x_test, y_test, partition, _consecutive([0] * len(sizes)))

    def _federation(
        self, x: npt.NDArray[Any], y: npt.NDArray[Any], x_test: npt.NDArray[Any], y_test: npt.NDArray[Any],
        partition: Partition, tests: Partition,
    ) -> FederatedData:  # fmt: skip
        dataset = Dataset(
            self.name, x, y, x_test, y_test, self.outputs, self.mean, self.std, self.class_names,
            input_scale=None if self.centre is None or self.unit is None else (self.centre, self.unit),
            target_scale=self.target,
        )  # fmt: skip
        counts = np.bincount(dataset.strata_train[partition.indices], minlength=dataset.num_strata)
        nothing = _consecutive([0] * len(partition))
        return FederatedData(dataset, partition, tests, "test", counts, nothing)

    def _pair(self, given: Arrays, x_name: str, y_name: str) -> tuple[npt.NDArray[Any], npt.NDArray[Any]]:
        try:
            x, y = np.asarray(given[x_name]), np.asarray(given[y_name])
        except KeyError as error:
            raise FedsimError(f"data.py: its function returns no {error}; it must return x and y") from None
        x = self._image(x) if len(self.input_shape) == 3 else self._row(x)
        if x.shape[1:] != self.input_shape or y.shape != x.shape[:1]:
            raise FedsimError(
                f"data.py: {x_name} {x.shape[1:]} and {y_name} {y.shape} do not fit; a sample of this federation is "
                f"{self.input_shape}, with one label for each"
            )
        if self.numbers:
            centre, unit = self.target or (0.0, 1.0)
            return x, ((y - centre) / unit).astype(np.float32)
        if y.dtype.kind not in "iu" or (len(y) and not 0 <= y.min() <= y.max() < self.outputs):
            raise FedsimError(f"data.py: {y_name} must be whole numbers from 0 to {self.outputs - 1}")
        return x, y.astype(np.int64)

    def _image(self, x: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
        if x.dtype != np.uint8:
            raise FedsimError(f"data.py: images must be uint8, from 0 to 255, got {x.dtype}")
        if x.ndim == 3:
            x = x[..., None]
        return np.ascontiguousarray(x.transpose(0, 3, 1, 2)) if x.ndim == 4 else x

    def _row(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        x = x.astype(np.float64)
        if self.centre is not None and self.unit is not None and x.ndim == 2 and x.shape[1] == len(self.centre):
            x = (x - np.array(self.centre)) / np.array(self.unit)
        return x.astype(np.float32)


def _consecutive(counts: Sequence[int]) -> Partition:
    return Partition(np.arange(sum(counts)), np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]))
