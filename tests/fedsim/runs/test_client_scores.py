"""Unseen clients, and how accuracies spread over clients."""

import csv

import numpy as np
import pytest

import fedsim
from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.federated.registry import describe
from fedsim.report.plots import client_plots
from fedsim.runs.client_scores import ClientScore, spread
from fedsim.runs.folder import RunFolder
from fedsim.runs.simulation import Simulation
from tests.strategies.small_runs import assert_same_bits, begin
from tests.tiny_runs import TINY


def test_spread_is_that_of_numpy():
    accuracies, samples = np.linspace(0.2, 0.9, 23), np.arange(23) + 1
    scores = [
        ClientScore(k, False, {"accuracy": a, "num-examples": n})
        for k, (a, n) in enumerate(zip(accuracies[::-1], samples, strict=True))
    ]
    assert spread(scores) == pytest.approx({
        "accuracy_std": np.std(accuracies), "accuracy_p10": np.quantile(accuracies, 0.1),
        "accuracy_worst10": accuracies[:2].mean(), "accuracy_pooled": np.average(accuracies[::-1], weights=samples),
        "num_clients": 23, "num_samples": samples.sum(),
    })  # fmt: skip
    assert spread(scores[:1])["accuracy_worst10"] == accuracies[-1]
    assert spread([ClientScore(0, False, {"mse": 1.0, "num-examples": 3})]) == {}


@pytest.mark.parametrize("method", sorted(describe("strategies")))
def test_unseen_clients_are_evaluated_and_nothing_of_theirs_is_read(method):
    """Whatever they have, the run comes to the same bits; and they never train."""
    overrides = {"clients": 5, "clients_unseen": 2, "rounds": 2, "eval_every": 2, "cohort": 3}
    run, other = begin(method, overrides), begin(method, overrides)
    data = other.simulation.data
    for client in (3, 4):
        rows = np.concatenate([data.partition[client], data.unlabelled[client]])
        other.simulation.worker.train_set.x[rows] = 0
    metrics = run.advance(2)
    other.advance(2)
    assert_same_bits(other.tensors, run.tensors)
    assert_same_bits(other.state.server[0], run.state.server[0])
    assert run.engine.trained == {0, 1, 2}
    assert metrics["unseen/num_clients"] == 2
    for name in ("accuracy", "accuracy_masked", "accuracy_unmasked", "accuracy_std", "accuracy_worst10"):
        assert 0 <= metrics[f"unseen/{name}"] <= 1
    assert [score.client for score in run.state.clients if score.unseen] == [3, 4]


def test_a_run_keeps_what_each_client_scored(tmp_path):
    config = {**TINY, "clients_unseen": 2, "eval_clients": "all", "eval_every": 3, "out": str(tmp_path)}
    result = fedsim.run(config)
    with (result.folder / "clients.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["group"] for row in rows] == ["seen"] * 4 + ["unseen"] * 2
    for group, head in (("seen", "clients"), ("unseen", "unseen")):
        own = [float(row["accuracy"]) for row in rows if row["group"] == group]
        assert np.mean(own) == pytest.approx(result.final[f"{head}/accuracy"])
        assert np.std(own) == pytest.approx(result.final[f"{head}/accuracy_std"])
    (plot,) = client_plots([RunFolder.open(result.folder)])
    assert plot.name == "clients"
    assert (result.folder / "plots" / "clients.png").is_file()
    (result.folder / "clients.csv").unlink()  # as if it had been killed after its last checkpoint
    fedsim.resume(result.folder)
    with (result.folder / "clients.csv").open() as file:
        assert list(csv.DictReader(file)) == rows


def test_a_run_without_client_scores_writes_no_table(tmp_path):
    folder = fedsim.run({**TINY, "out": str(tmp_path)}).folder
    assert not (folder / "clients.csv").exists()
    assert client_plots([RunFolder.open(folder)]) == []


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"clients_unseen": 4}, r"clients_unseen: must be below clients \(4\), got 4"),
        ({"clients_unseen": 1, "cohort": 4}, r"cohort: must be at most clients - clients_unseen \(3\), got 4"),
    ],
)
def test_too_many_are_refused(overrides, line):
    with pytest.raises(FedsimError, match=line):
        resolve({"strategy": "fedavg", "clients": 4}, overrides)


def test_shares_are_of_those_that_may_be_drawn():
    config = resolve({"strategy": "fedavg", "clients": 10, "clients_unseen": 5, "cohort": "40%"})
    assert config.cohort_size == 2
    assert Simulation(config).server.data.partition.sizes[5:].sum() == 0
    assert "clients_unseen" in config.recipe()
    assert "clients_unseen" not in resolve({"strategy": "fedavg"}).recipe()
