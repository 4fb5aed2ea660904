"""The FedAvg workloads of the benchmarks. Each is defined once, and every row runs exactly these steps."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fedsim.data.config import DataConfig, Iid
from fedsim.data.federation import federate
from fedsim.data.transforms import normalize
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.randomness import generator

SEED = 0


@dataclass(frozen=True)
class Workload:
    """Plain SGD of `cohort` of `clients` IID clients in each round, and the mean of their models."""

    shape: tuple[int, ...]
    """Shape of an image, (height, width, channels)."""
    model: dict[str, Any]
    """The `model:` part of fedsim's configuration."""
    clients: int = 200
    cohort: int = 50
    samples: int = 50
    """Number of samples per client."""
    batch: int = 10
    epochs: int = 1
    lr: float = 0.05
    classes: int = 10
    rounds: int = 10
    """Timed rounds per process, unless the command line gives a number."""
    ray_chunk: int = 25
    """Clients per chunk on Ray: small, so that two workers have work."""
    tests: int = 100
    exact: bool = True
    """Whether all rows end with the same parameters. They do not with dropout, which every row draws in its own order.
    They do not with BatchNorm over a few samples, which amplifies rounding errors (in float64 such rows agree)."""

    def data_file(self) -> Path:
        """Return the archive of this workload's data; write it if it is missing.

        Noisy images, one pattern per class.
        """
        name = "x".join(map(str, (*self.shape, self.classes, self.clients * self.samples, self.tests)))
        path = Path(os.environ.get("FEDSIM_BENCH_DATA") or Path(tempfile.gettempdir()) / "fedsim-bench") / f"{name}.npz"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            rng = np.random.default_rng(SEED)
            patterns = rng.integers(64, 192, (self.classes, *self.shape)).astype(np.uint8)
            arrays: dict[str, npt.NDArray[Any]] = {}
            for part, number in (("train", self.clients * self.samples), ("test", self.tests)):
                labels = np.arange(number) % self.classes
                noise = rng.integers(0, 128, (number, *self.shape), dtype=np.uint8)
                arrays |= {f"x_{part}": patterns[labels] // 2 + noise, f"y_{part}": labels}
            unfinished = path.with_suffix(f".{os.getpid()}.npz")
            np.savez(unfinished, **arrays)  # type: ignore[arg-type]  # none of them is `allow_pickle`
            unfinished.replace(path)
        return path

    def config(self) -> dict[str, Any]:
        """Return fedsim's configuration of this workload, without cohort mode and engine."""
        never = 10**9
        return {
            "seed": SEED, "rounds": never, "eval_every": never, "clients": self.clients, "cohort": self.cohort,
            "data": {"name": f"npz:{self.data_file()}", "partition": "iid"}, "model": self.model,
            "training": {"epochs": self.epochs, "batch_size": self.batch, "lr": self.lr},
        }  # fmt: skip

    def describe(self) -> dict[str, Any]:
        """Return the workload as JSON values."""
        return asdict(self)


_CNN, _MLP, _PFL = {"name": "cnn"}, {"name": "mlp", "hidden": [200]}, {"name": "pfl_cnn"}
WORKLOADS = {
    "smoke": Workload((8, 8, 1), _CNN, clients=12, cohort=6, samples=15, rounds=3, ray_chunk=3),
    "W1": Workload((8, 8, 1), _CNN, rounds=20),
    "W1-1000": Workload((8, 8, 1), _CNN, clients=1200, cohort=1000, rounds=5, ray_chunk=50),
    "W2": Workload((28, 28, 1), _MLP, rounds=20),
    "W3": Workload((32, 32, 3), _PFL, cohort=20, rounds=8, ray_chunk=5, exact=False),
    "W4": Workload((32, 32, 3), {"name": "resnet18"}, cohort=20, rounds=5, exact=False),
    "FLUTE": Workload((28, 28, 1), {"name": "logistic"}, clients=1000, cohort=10, samples=60, rounds=100, ray_chunk=5),
}
"""W3: pfl-research's CIFAR-10 network. FLUTE: the logistic regression on MNIST of arXiv:2203.13789."""


@dataclass
class Federation:
    """A workload for the other rows: the same data, cohorts, order of samples and initial weights."""

    workload: Workload
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        name = f"npz:{self.workload.data_file()}"
        data = federate(DataConfig(name=name, partition=Iid()), self.workload.clients, SEED)
        self._partition, dataset = data.partition, data.dataset
        self.input_shape = dataset.input_shape
        self.x: Tensor = normalize(torch.from_numpy(dataset.x_train).to(self.device), dataset.mean, dataset.std)
        """All samples, already normalised."""
        self.y = torch.from_numpy(dataset.y_train).to(self.device)

    def model(self) -> Classifier:
        """Return a new model with the initial weights, in training mode."""
        config = ModelConfig(**self.workload.model)
        return build_model(config, self.input_shape, self.workload.classes, SEED).to(self.device)

    def cohort(self, server_round: int) -> list[int]:
        """Return the clients that train in a round, counted from 1."""
        lots = generator(SEED, "cohort", server_round).random(self.workload.clients)
        return sorted(np.argsort(lots)[: self.workload.cohort].tolist())

    def order(self, server_round: int, client: int) -> Tensor:
        """Return a client's samples, epoch after epoch, (epochs, samples), in the order of its steps."""
        rng, rows = generator(SEED, "batches", server_round, client, 0), self._partition[client]
        epochs = [rows[rng.permutation(len(rows))] for _ in range(self.workload.epochs)]
        return torch.from_numpy(np.stack(epochs)).to(self.device)


def flat(tensors: list[Tensor]) -> npt.NDArray[np.float32]:
    """Return the tensors concatenated."""
    return torch.cat([tensor.detach().cpu().float().flatten() for tensor in tensors]).numpy()
