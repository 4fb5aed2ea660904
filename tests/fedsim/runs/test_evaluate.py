"""An exported model gives the same figures on any data set as in its run."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import fedsim
from fedsim.errors import FedsimError
from tests.tiny_runs import Cli

pytestmark = pytest.mark.usefixtures("no_pictures")


def flowers(file: Path, names: list[str], rows: int, seed: int) -> None:
    """Write a table whose first column, in millions, tells the named species apart."""
    rng = np.random.default_rng(seed)
    order = {"rose": 0, "tulip": 1, "lily": 2}
    with file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["height", "colour", "species"])
        for name in rng.choice(names, rows):
            writer.writerow(
                [f"{1e6 * (5 + order[name]) + 1e5 * rng.standard_normal():.1f}", rng.choice(["red", "blue"]), name]
            )


TABLE: dict[str, Any] = {"clients": 3, "rounds": 4, "training": {"vectorize": "never", "epochs": 4}}


@pytest.fixture(scope="module")
def table_run(tmp_path_factory: pytest.TempPathFactory) -> fedsim.RunResult:
    folder = tmp_path_factory.mktemp("table")
    flowers(folder / "flowers.csv", ["rose", "tulip", "lily"], 300, 0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return fedsim.run({**TABLE, "data": {"name": f"csv:{folder / 'flowers.csv'}"}}, overrides={"out": str(folder)})


def test_the_runs_own_test_set_gives_the_runs_own_figures(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    own = fedsim.evaluate(tiny_run)
    summary = fedsim.compare(tiny_run, metrics=["global/accuracy", "global/loss"]).iloc[0]
    assert own.metrics["accuracy"] == summary["global/accuracy"]
    assert own.metrics["loss"] == pytest.approx(summary["global/loss"], rel=1e-5)
    assert own.samples == 480
    assert cli("export", tiny_run, "--out", tmp_path / "m.safetensors").code == 0
    alone = fedsim.evaluate(tmp_path / "m.safetensors", "digits")
    assert alone.metrics == own.metrics
    shown = cli("evaluate", tmp_path / "m.safetensors", "--dataset=digits")
    assert f"Accuracy           {100 * own.metrics['accuracy']:.2f} %" in shown.out


def test_a_tables_model_takes_raw_rows(table_run: fedsim.RunResult) -> None:
    model = fedsim.load_model(table_run.folder)
    columns = model.description.input_names
    assert columns is not None
    rows = np.zeros((3, len(columns)))
    rows[:, columns.index("height")] = [5e6, 6e6, 7e6]
    assert model.predict_names(rows) == ["rose", "tulip", "lily"]


def test_classes_of_another_table_are_matched_by_name(table_run: fedsim.RunResult, tmp_path: Path, cli: Cli) -> None:
    flowers(tmp_path / "few.csv", ["tulip", "lily"], 80, 1)
    with_run = fedsim.evaluate(table_run, f"csv:{tmp_path / 'few.csv'}")
    assert with_run.samples == 80
    assert with_run.metrics["accuracy"] > 0.9
    assert cli("export", table_run.folder, "--out", tmp_path / "m.safetensors").code == 0
    alone = fedsim.evaluate(tmp_path / "m.safetensors", f"csv:{tmp_path / 'few.csv'}")
    assert alone.metrics["accuracy"] == with_run.metrics["accuracy"]
    assert np.isnan(alone.per_class).sum() == 1
    flowers(tmp_path / "few.csv", ["tulip", "lily"], 80, 1)
    text = (tmp_path / "few.csv").read_text().replace("tulip", "orchid")
    (tmp_path / "few.csv").write_text(text)
    with pytest.raises(FedsimError, match="has a class 'orchid', and the model knows"):
        fedsim.evaluate(tmp_path / "m.safetensors", f"csv:{tmp_path / 'few.csv'}")


def test_predicted_numbers_are_in_their_own_unit(tmp_path: Path) -> None:
    result = fedsim.run(
        {**TABLE, "data": {"name": "diabetes"}, "rounds": 2}, overrides={"out": str(tmp_path), "name": "numbers"}
    )
    model = fedsim.load_model(result.folder)
    assert model.description.target_scale is not None
    centre, unit = model.description.target_scale
    rows = np.array([model.description.mean])
    assert model.predict(rows)[0] == pytest.approx(centre + unit * model.outputs(rows)[0, 0])
    assert 100 < model.predict(rows)[0] < 200  # the patients' scores are about 152 in the mean
    assert fedsim.evaluate(result).metrics["mse"] == pytest.approx(result.final["global/mse"], rel=1e-5)
