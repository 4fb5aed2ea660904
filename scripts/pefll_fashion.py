"""Models for clients that are never trained, on Fashion-MNIST at 16x16: PeFLL, its rivals, and its descriptors.

Run `python scripts/pefll_fashion.py --data-root FOLDER --out pefll_fashion`. It takes about a minute for each method
and seed on one CPU core. Every run is a folder under `--out`: finished runs are kept, and interrupted ones continue.

There are 100 clients of 3 classes each, in equal shares, with 10 training samples per class. The last 20 clients are
never trained. A round has 5 clients, each with 20 local steps of 16 samples, at the learning rate 0.02. A client's test
samples are of its own classes.

Columns, in percent, after the last round:

- accuracy over all test samples of the clients that train (seen) and of the others (unseen), with all classes allowed
  (unmasked) or without the classes of which a client has no training sample (masked);
- the worst tenth of the unseen clients;
- for PeFLL's network, a rank correlation over pairs of unseen clients, before and after training: of the distance of
  their descriptors with the distance of their class distributions.

`FedAvg + 20 local steps` is FedAvg's model after local steps of each client, at the learning rate of the run.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
import typer
from evidence import Ledger
from flwr.app import ConfigRecord
from scipy.stats import spearmanr

import fedsim
from fedsim.config.resolve import resolve
from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.federated.server import Server
from fedsim.flower.records import Tensors, to_record
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.personalize import personalize
from fedsim.runs.simulation import Simulation
from strategies.pefll import means_of

CLIENTS, UNSEEN, ROUNDS = 100, 20, 300
WORST, TUNED = "worst tenth of the unseen", " + 20 local steps"
PEFLL = {
    "name": "pefll", "descriptor": 16, "hidden": 64, "blocks": 2, "server_lr": 1e-3, "descriptor_batch": None,
}  # fmt: skip
METHODS: dict[str, dict[str, Any]] = {
    "PeFLL": {"strategy": PEFLL},
    "FedAvg": {"strategy": "fedavg"},
    "PeFLL, constant descriptor": {"strategy": {**PEFLL, "embedding": "constant"}},
    "PeFLL, histogram": {"strategy": {**PEFLL, "embedding": "histogram"}},
    "Local, 150 steps": {
        "strategy": "local", "clients_unseen": 0, "cohort": CLIENTS, "rounds": 1,
        "training.steps": 150, "training.lr": 0.01,
    },
    "pFedHN": {"strategy": {"name": "pfedhn", "descriptor": 16, "hidden": 64, "blocks": 2, "server_lr": 1e-3}},
    "Per-FedAvg": {"strategy": {"name": "per_fedavg", "hessian": "none", "alpha": 0.02}},
}  # fmt: skip
BASE: dict[str, Any] = {
    "clients": CLIENTS, "clients_unseen": UNSEEN, "cohort": 5, "rounds": ROUNDS, "eval_every": 100,
    "eval_clients": "all", "checkpoint_every": 100,
    "data": {"max_per_class": 300, "partition": {"name": "pathological", "classes_per_client": 3, "equal": True}},
    "model": {"name": "cnn", "norm": "none", "width": 4},
    "training": {
        "steps": 20, "batch_size": 16, "lr": 0.02, "momentum": 0.9, "weight_decay": 5e-5, "clip_norm": 50.0,
        "vectorize": "always", "chunk": 5,
    },
}  # fmt: skip


def small_fashion(root: Path | None, out: Path) -> Path:
    """Return an archive of Fashion-MNIST, padded to 32x32 and averaged to 16x16; write it if it is missing."""
    path = out / "fashion16.npz"
    if not path.exists():
        dataset = load_dataset(DataConfig(name="fashionmnist", root=root), 0)

        def small(x: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
            padded = np.pad(x, ((0, 0), (0, 0), (2, 2), (2, 2))).astype(np.float32)
            means: npt.NDArray[np.float32] = padded.reshape(len(x), 1, 16, 2, 16, 2).mean((3, 5))
            return means.round().astype(np.uint8)

        out.mkdir(parents=True, exist_ok=True)
        np.savez_compressed(
            path, x_train=small(dataset.x_train), y_train=dataset.y_train,
            x_test=small(dataset.x_test), y_test=dataset.y_test,
        )  # fmt: skip
    return path


def finished(config: Mapping[str, Any], folder: Path) -> Path:
    """Return the folder of a run, after its remaining rounds have been run."""
    if not (folder / "config.yaml").exists():
        fedsim.run({**config, "name": folder.name, "out": str(folder.parent)})
    elif not (folder / "summary.json").exists():
        fedsim.resume(folder)
    return folder


def accuracies(folder: Path) -> dict[str, float]:
    """Return the columns of a run, from its table of clients."""
    with (folder / "clients.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    columns = {}
    groups = {"seen": rows[: CLIENTS - UNSEEN], "unseen": rows[CLIENTS - UNSEEN :]}
    for rule in ("unmasked", "masked"):
        for group, members in groups.items():
            values = np.array([float(row[f"accuracy_{rule}"]) for row in members])
            samples = np.array([int(row["test_samples"]) for row in members])
            columns[f"{group} {rule}"] = 100 * float(np.average(values, weights=samples))
    worst = np.sort([float(row["accuracy_unmasked"]) for row in groups["unseen"]])[: UNSEEN // 10]
    return {**columns, WORST: 100 * float(worst.mean())}


def adapted(folder: Path) -> dict[str, float]:
    """Return the columns of a run's model after local steps of each client: as many as in a round."""
    rows = personalize(folder, f"0-{CLIENTS - 1}", adapt_steps=BASE["training"]["steps"])
    columns = {}
    groups = {"seen": rows[: CLIENTS - UNSEEN], "unseen": rows[CLIENTS - UNSEEN :]}
    for rule in ("unmasked", "masked"):
        for group, members in groups.items():
            values = [one.metrics[f"accuracy_{rule}"] for one in members]
            columns[f"{group} {rule}"] = 100 * float(
                np.average(values, weights=[one.metrics["num-examples"] for one in members])
            )
    worst = np.sort([one.metrics["accuracy_unmasked"] for one in groups["unseen"]])[: UNSEEN // 10]
    return {**columns, WORST: 100 * float(worst.mean())}


def correlation(simulation: Simulation, tensors: Tensors) -> float:
    """Return the rank correlation of the distances of descriptors and of class distributions, over unseen pairs."""
    server: Server = simulation.server
    eta_v = to_record({name: value for name, value in tensors.items() if name.startswith("embedding.")})
    with closing(simulation.engine()) as engine:
        engine.cohort = range(CLIENTS - UNSEEN, CLIENTS)
        messages = server.messages("query.embed_all", 1, eta_v, ConfigRecord(), engine.get_node_ids())
        found = means_of(engine.stream(messages), simulation.worker.device)
    descriptors = np.stack([value["descriptor"].numpy() for value in found.values()])
    data = simulation.data
    counts = data.partition.label_counts(data.dataset.strata_train, data.dataset.num_strata)[CLIENTS - UNSEEN :]
    shares = counts / counts.sum(1, keepdims=True)
    pairs = list(combinations(range(UNSEEN), 2))
    apart = [float(np.linalg.norm(descriptors[i] - descriptors[j])) for i, j in pairs]
    truly = [float(np.abs(shares[i] - shares[j]).sum()) for i, j in pairs]
    return float(spearmanr(apart, truly).statistic)


def main(
    data_root: Annotated[Path | None, typer.Option(help="Folder with Fashion-MNIST.")] = None,
    out: Annotated[Path, typer.Option(help="Folder of the runs and the numbers.")] = Path("pefll_fashion"),
    seeds: Annotated[str, typer.Option(help="Seeds, with commas.")] = "1,2,3",
    rounds: Annotated[int, typer.Option(help="Rounds; use fewer to test the script.")] = ROUNDS,
    only: Annotated[str, typer.Option(help="Run only the methods whose names begin with this text.")] = "",
) -> None:
    """Run missing runs and print the tables."""
    archive = small_fashion(data_root, out)
    ledger = Ledger(out / "numbers.json")
    table = f"{CLIENTS} clients, {rounds} rounds"
    for method, own in METHODS.items():
        for seed in map(int, seeds.split(",")):
            if not method.startswith(only) or ledger.has(table, method, seed):
                continue
            shared = {**BASE, "rounds": rounds, "seed": seed, "data.name": f"npz:{archive}"}
            config = resolve(shared, own).model_dump(mode="json")
            folder = finished(config, out / f"{method.lower().replace(', ', '-').replace(' ', '-')}-{seed}")
            columns = accuracies(folder)
            if method == "PeFLL":
                simulation, checkpoint = Simulation(resolve(config)), load_latest(folder)
                assert checkpoint is not None
                columns["rank correlation, untrained"] = 100 * correlation(simulation, simulation.server.initial())
                columns["rank correlation, trained"] = 100 * correlation(simulation, checkpoint.model)
            ledger.add(table, method, seed, columns)
            if method in ("FedAvg", "Per-FedAvg"):
                ledger.add(table, f"{method}{TUNED}", seed, adapted(folder))
    print(ledger.markdown(table))


if __name__ == "__main__":
    typer.run(main)
