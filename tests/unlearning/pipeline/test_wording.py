"""Names of classes and clients stand where their numbers do: in requests, in what is printed, and in reports."""

import io

import numpy as np
import pytest
from rich.console import Console

import fedsim
from fedsim.data import DataConfig, federate
from fedsim.errors import FedsimError
from fedsim.report.show import render_summary
from fedsim.runs.folder import RunFolder
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.runner import unlearn

HOSPITALS = ("Ulm, Nord", "köln", "st_mary")
KINDS = ("3", "9", "Iris-setosa")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    lines = [f"{HOSPITALS[i % 3]};{i % 7};{KINDS[i // 3 % 3]}\n" for i in range(90)]
    path = tmp_path_factory.mktemp("named") / "flowers.csv"
    path.write_text("hospital;size;kind\n" + "".join(lines), encoding="utf-8")
    return path


def test_names_and_numbers_are_the_same_request(table):
    data = federate(DataConfig(name=f"csv:{table}", csv={"client": "hospital"}), 3, 0)
    for name, same in {
        "client=st_mary": "client=2",
        "client=Ulm, Nord": "client=0",
        "clients=köln,st_mary": "clients=1,2",
        "class=Iris-setosa": "class=2",
        "class=3": "class=0",  # a name goes before a number
        "client=st_mary+class=9": "client=2+class=1",
    }.items():
        np.testing.assert_array_equal(parse_forget(name, data, 0).rows, parse_forget(same, data, 0).rows)
    with pytest.raises(FedsimError, match="no client 'st_marry'; did you mean 'st_mary'"):
        parse_forget("client=st_marry", data, 0)


def test_names_stand_in_what_is_shown_and_reported(table, tmp_path):
    settings = {"data": {"name": f"csv:{table}", "csv": {"client": "hospital"}}, "rounds": 1, "out": str(tmp_path)}
    folder = fedsim.run(settings).folder
    console = Console(record=True, width=200, file=io.StringIO())
    console.print(render_summary(RunFolder.open(folder)))
    shown = console.export_text()
    assert "Iris-setosa" in shown
    assert "--forget 'client=Ulm, Nord'" in shown
    outcome = unlearn(folder, ["finetune"], "class=Iris-setosa")
    assert outcome.comparison.class_names == [*KINDS]
    assert "Iris-setosa:" in (outcome.folder / "report.html").read_text(encoding="utf-8")


def test_a_class_that_the_test_set_lacks_is_not_said_to_be_attacked(tmp_path):
    rng = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(
        tmp_path / "lacks.npz", x_train=rng.integers(0, 256, (120, 8, 8), np.uint8), y_train=y,
        x_test=rng.integers(0, 256, (30, 8, 8), np.uint8), y_test=np.zeros(30, np.int64),
    )  # fmt: skip
    folder = fedsim.run(
        {
            "data": {"name": f"npz:{tmp_path / 'lacks.npz'}"},
            "clients": 3,
            "rounds": 1,
            "model": "mlp",
            "out": str(tmp_path),
        }
    ).folder
    outcome = unlearn(folder, ["finetune"], "class=2")
    assert outcome.comparison.num_unseen == 0
    page = (outcome.folder / "report.html").read_text(encoding="utf-8")
    assert "the test set has no sample of the forgotten classes" in page
    assert "never-seen samples of the same classes" not in page.split("How to read this")[1][:3000]
