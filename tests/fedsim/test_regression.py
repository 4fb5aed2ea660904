"""Runs that predict numbers, from the configuration to the report."""

import numpy as np
import pytest
import torch
from rich.console import Console

import fedsim
from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.report.curves import learning_curves
from fedsim.report.show import render_summary
from fedsim.runs.folder import RunFolder
from fedsim.runs.runner import load_run_model
from fedsim.runs.simulation import Simulation
from unlearning.pipeline.source import open_source

LINEAR = {
    "data": {"name": "linear", "linear": {"d": 6, "n": 400, "sigma": 0.5, "n_test": 300}, "partition": "iid"},
    "clients": 4, "rounds": 2, "model": "linear", "name": "numbers",
    "training": {"vectorize": "never", "epochs": 1, "lr": 0.05},
}  # fmt: skip


def test_a_run_from_start_to_report(tmp_path):
    result = fedsim.run({**LINEAR, "out": str(tmp_path)})
    data = Simulation(result.config).data.dataset
    with torch.no_grad():
        predicted = load_run_model(result.folder)(torch.from_numpy(data.x_test))[:, 0].numpy()
    final = result.final
    assert final["global/mse"] == pytest.approx(((predicted - data.y_test) ** 2).mean(), rel=1e-5)
    assert final["global/excess_risk"] == pytest.approx(((predicted - data.truth_test) ** 2).mean(), rel=1e-5)
    assert final["global/r2"] == pytest.approx(1 - final["global/mse"] / data.y_test.var(), rel=1e-5)
    assert 0.6 < final["global/r2"] < 0.9  # the noise alone is a fifth of the variance
    assert {path.stem for path in (result.folder / "plots").iterdir()} >= {"mse", "excess_risk", "partition"}
    again = fedsim.run({**LINEAR, "out": str(tmp_path), "name": "again"}).folder
    titles = [plot.title for plot in learning_curves([RunFolder.open(result.folder), RunFolder.open(again)])]
    assert titles == ["Global mean squared error", "Global excess risk", "Training loss"]
    console = Console(record=True, width=100)
    console.print(render_summary(RunFolder.open(result.folder)))
    shown = console.export_text()
    assert "mean squared error" in shown
    assert "global/mse" in shown  # its trend
    with pytest.raises(FedsimError, match="predicts numbers, and unlearning needs classes"):
        open_source(result.folder)


def test_the_local_step_is_least_squares():
    """One full-batch step of one client: theta - lr * 2/n X^T (X theta - y)."""
    changes = {"clients": 1, "training.batch_size": 400, "training.precision": "float64", "model.name": "logistic"}
    simulation = Simulation(resolve(LINEAR, changes))
    engine, state = simulation.engine(), simulation.begin()
    before = {name: value.numpy().copy() for name, value in state.tensors.items()}
    simulation.step(state, engine)
    data = simulation.data.dataset
    x, y = data.x_train.astype(float), data.y_train.astype(float)
    residual = x @ before["classifier.weight"][0] + before["classifier.bias"] - y
    weight = before["classifier.weight"][0] - 0.05 * 2 / 400 * x.T @ residual
    np.testing.assert_allclose(state.tensors["classifier.weight"][0].numpy(), weight, atol=1e-12)
    bias = before["classifier.bias"] - 0.05 * 2 * residual.mean()
    np.testing.assert_allclose(state.tensors["classifier.bias"].numpy(), bias, atol=1e-12)


def test_personal_models_are_scored_by_their_errors():
    simulation = Simulation(resolve(LINEAR, {"strategy": "ditto"}))
    engine, state = simulation.engine(), simulation.begin()
    metrics = simulation.step(state, engine)
    assert metrics["clients_global/mse"] == pytest.approx(metrics["global/mse"], rel=0.2)  # on parts of the same set
    assert 0 < metrics["clients/mse"] < 2


def test_bags_cannot_be_unlearned(tmp_path):
    result = fedsim.run({**LINEAR, "strategy": "aggregate", "out": str(tmp_path)})
    with pytest.raises(FedsimError, match="aggregate does not train on single samples"):
        open_source(result.folder)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (
            {"strategy": "fedloge", "data.imbalance_factor": 1.0},
            "strategy.name: fedloge needs classes, and linear has numbers to predict",
        ),
        ({"strategy": "fedetf"}, "strategy.name: fedetf needs classes"),
        ({"data.partition": "dirichlet"}, "data.partition: dirichlet splits by class"),
        ({"data.name": "digits"}, "model.name: linear predicts one number, not 10 classes; use logistic"),
        ({"model": "cnn"}, "model.name: cnn needs images"),
    ],
)
def test_what_does_not_go_together_is_refused(changes, line):
    with pytest.raises(FedsimError, match=line) as caught:
        Simulation(resolve(LINEAR, changes))
    assert "\n" not in str(caught.value)
