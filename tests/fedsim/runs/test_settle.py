"""Options that a configuration leaves open are determined by the data; given options stay."""

import numpy as np
import pytest

import fedsim
from fedsim.config.resolve import read_yaml, resolve
from fedsim.errors import FedsimError
from fedsim.runs.simulation import Simulation

HOSPITALS = ("Ulm, Nord", "köln", "st_mary")


@pytest.fixture
def table(tmp_path):
    """Return the path of a table of three hospitals in Latin-1, with decimal commas."""
    lines = [f"{HOSPITALS[i % 3]};{i},5;{'krank' if i % 2 else 'gesund'}\n" for i in range(90)]
    path = tmp_path / "patients.csv"
    path.write_bytes(("hospital;dose;diagnosis\n" + "".join(lines)).encode("latin-1"))
    return path


def simulation(path, **layers):
    layers = {f"data.csv.{key}": value for key, value in layers.items() if key in ("client", "target")} | {
        key.replace("__", "."): value for key, value in layers.items() if key not in ("client", "target")
    }
    return Simulation(resolve({"data.name": f"csv:{path}", "rounds": 1, **layers}))


def test_a_table_needs_no_options(table):
    run = simulation(table, target="diagnosis")
    assert (run.config.model.name, run.config.data.partition.name, run.config.clients) == ("mlp", "dirichlet", 20)
    numbers = simulation(table, target="dose")
    assert (numbers.config.model.name, numbers.config.data.partition.name) == ("mlp", "iid")
    assert (numbers.config.training.lr, numbers.config.training.clip_norm) == (0.05, 1.0)
    assert "2 classes (gesund 45, krank 45)" in run.choices["data"]
    for said in ("Windows-1252", "semicolons", "dose, a number from 0.5 to 89.5"):
        assert said in numbers.choices["data"]


@pytest.mark.parametrize("method", ["ditto", "fedprox", "fedadam", "qfedavg"])
def test_options_of_a_method_stay_too(table, method):
    settled = simulation(table, target="dose", strategy__name=method).config
    assert settled.strategy == resolve({"strategy": method}).strategy
    assert settled.model.name == "mlp"


def test_what_is_given_stays(table):
    given = simulation(table, target="dose", model__name="logistic", data__partition="iid", training__lr=0.3)
    assert (given.config.model.name, given.config.training.lr, given.config.training.clip_norm) == (
        "logistic",
        0.3,
        None,
    )
    with pytest.raises(FedsimError, match=r"cnn needs images.*try mlp or logistic"):
        simulation(table, target="diagnosis", model__name="cnn")
    with pytest.raises(FedsimError, match="dirichlet splits by class"):
        simulation(table, target="dose", data__partition="dirichlet")


def test_a_column_names_the_clients(table):
    run = simulation(table, client="hospital", cohort=2)
    assert (run.config.clients, run.config.data.partition.name) == (3, "natural")
    assert run.data.dataset.client_names == HOSPITALS
    doses = run.data.dataset.x_train[:, 0] * run.data.dataset.input_scale[1][0] + run.data.dataset.input_scale[0][0]
    for client in range(3):
        assert set(np.floor(doses[run.data.partition[client]] + 0.01).astype(int) % 3) == {client}
    assert (run.data.client_test.sizes > 0).all()  # their own test rows
    for refused, options in {
        "the data name 3, got 7": {"clients": 7},
        "data.csv.client makes the clients": {"data__partition": "iid"},
        "cohort: must be at most clients .3.": {"cohort": 5},
    }.items():
        with pytest.raises(FedsimError, match=refused):
            simulation(table, client="hospital", **options)


def test_a_run_keeps_what_was_settled(table, tmp_path):
    result = fedsim.run(
        {"data": {"name": f"csv:{table}", "csv": {"client": "hospital"}}, "rounds": 1, "out": str(tmp_path)}
    )
    kept = resolve(read_yaml(result.folder / "config.yaml"))
    assert (kept.model.name, kept.clients, kept.data.partition.name) == ("mlp", 3, "natural")
    assert kept.recipe() == result.config.recipe()
    again = fedsim.run(result.config, overrides={"name": "again"})
    assert again.metrics[-1]["metrics"]["global/accuracy"] == result.metrics[-1]["metrics"]["global/accuracy"]
