"""`fedsim unlearn` from the command line to the folder."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from fedsim.errors import RunFailed
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from fedsim.runs.checkpoint import load_model
from tests.light import as_for_users
from tests.tiny_runs import Cli
from unlearning.api import registry as methods
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, load_unlearning, unlearning
from unlearning.api.view import View
from unlearning.evaluation.catalogue import METRICS
from unlearning.evaluation.gaps import average_gap
from unlearning.pipeline.apply import options_of
from unlearning.pipeline.comparison import Comparison, read_comparison
from unlearning.pipeline.outcome import Outcome
from unlearning.pipeline.roles import _held_out
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


def files(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


@pytest.fixture(scope="module")
def outcome(run: Path) -> Outcome:
    """Return a method and the baselines against an oracle, over two seeds, with pictures and noise floors."""
    with pytest.MonkeyPatch.context() as patch, as_for_users():
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        patch.setattr("fedsim.report.figures._DPI", 40)
        return unlearn(run, ["neggrad"], "client=2", compare="retrain", seeds=2)


@pytest.fixture(scope="module")
def comparison(outcome: Outcome) -> Comparison:
    return read_comparison(outcome.folder)


def test_everything_stands_side_by_side(comparison: Comparison) -> None:
    assert [row.kind for row in comparison.rows[:2]] == ["original", "oracle"]
    others = {row.name: row.kind for row in comparison.rows[2:]}
    assert others == {
        "neggrad": "method", "finetune": "baseline", "constant": "baseline",
    }  # fmt: skip
    places = {row.name: row.place for row in comparison.rows}
    assert places.pop("oracle") is None
    assert None not in places.values()  # the original takes part as any method does
    assert comparison.floor is not None
    assert {row.where for row in comparison.rows if row.kind == "method"} == {"central"}


def test_numbers_are_those_of_the_models(run: Path, outcome: Outcome, comparison: Comparison) -> None:
    """Accuracies and the gap, once more from the files and by hand."""
    source = open_source(run)
    dataset, forget = source.data.dataset, np.load(outcome.folder / "forget.npy")
    assert np.array_equal(forget, source.data.partition[2])
    retain = np.setdiff1d(source.data.partition.indices, forget)
    tested = np.setdiff1d(np.arange(480), _held_out(dataset.y_test, generator(0, "selection")))
    sets = {
        "accuracy_forget": (dataset.x_train[forget], dataset.y_train[forget]),
        "accuracy_retain": (dataset.x_train[retain], dataset.y_train[retain]),
        "accuracy_test": (dataset.x_test[tested], dataset.y_test[tested]),
    }

    def accuracies(tensors: dict[str, Any]) -> dict[str, float]:
        source.model.load_state_dict(tensors)
        out = {}
        for name, (x, y) in sets.items():
            inputs, _ = View(torch.from_numpy(x), None, dataset.mean, dataset.std).all()
            out[name] = float((source.model(inputs).argmax(1).numpy() == y).mean())
        return out

    single = unlearn(run, ["neggrad"], "client=2", compare="retrain", seeds=1)
    rows = {row.name: row for row in single.comparison.rows}
    names = {"original": run / "model.safetensors", "neggrad": single.folder / "models" / "neggrad.safetensors"}
    for name, path in names.items():
        assert {key: rows[name].mean(key) for key in sets} == pytest.approx(accuracies(load_model(path)))
    metrics = [*sets, "mia_auc"]
    ours, theirs = ({key: rows[name].mean(key) for key in metrics} for name in ("neggrad", "oracle"))
    assert rows["neggrad"].mean("average_gap") == pytest.approx(average_gap(ours, theirs))
    # The first of the two seeds is the run's own, so the mean over seeds has this value in it.
    assert {row.name: row.metrics["accuracy_test"].seeds for row in comparison.rows} == dict.fromkeys(
        (row.name for row in comparison.rows), 2
    )


def test_two_seeds_give_intervals_and_the_metrics_of_distributions(comparison: Comparison) -> None:
    row = comparison.best
    assert row.metrics["average_gap"].low is not None
    assert "klom_forget" in row.metrics  # needs two models a side
    assert "u_lira" not in row.metrics  # needs four
    assert row.null["klom_forget"] > 0
    assert {name for row in comparison.rows for name in row.metrics} <= set(METRICS)


def test_the_folder_keeps_it_all(run: Path, outcome: Outcome) -> None:
    kept = {str(path) for path in files(outcome.folder)}
    assert kept >= {
        "config.yaml", "environment.json", "forget.npy", "comparison.json", "summary.json", "report.html",
        "model.safetensors", "models/neggrad.safetensors", "models/finetune.safetensors",
        "plots/losses.png", "plots/per_class.png",
    }  # fmt: skip
    asked = yaml.safe_load((outcome.folder / "config.yaml").read_text())["unlearn"]
    assert asked["forget"] == "client=2"
    defaults = options_of(load_unlearning("neggrad"), {}, "clients")  # not those for a class
    assert defaults != options_of(load_unlearning("neggrad"), {}, "class")
    assert asked["methods"]["neggrad"] == defaults.model_dump(exclude={"name"})
    assert {path.name for path in outcome.folder.parent.iterdir()} >= {"oracles", "originals", outcome.folder.name}
    assert len(list((outcome.folder.parent / "oracles").iterdir())) == 2
    summary = json.loads((outcome.folder / "summary.json").read_text())
    recorded = json.loads((run / "environment.json").read_text())["data_sha256"]
    assert summary["source"]["data_sha256"] == recorded


def test_the_report_tells_what_was_forgotten(outcome: Outcome) -> None:
    page = (outcome.folder / "report.html").read_text()
    for text in ("Forgetting client=2", "1 of 6 clients lost all their data", "oracle", "constant", "Cost"):
        assert text in page
    assert page.count("<svg") == 3
    assert "script" not in re.sub(r"data:image[^\"]*", "", page)


def test_show_prints_the_table_again(cli: Cli, outcome: Outcome) -> None:
    shown = cli("show", outcome.folder)
    assert shown.code == 0
    assert "constant" in shown.out
    assert "Gap" in shown.out
    before = (outcome.folder / "report.html").read_bytes()
    assert "its report is there" in cli("report", outcome.folder).err
    assert (outcome.folder / "report.html").read_bytes() == before


def test_retraining_is_a_method_too(cli: Cli, run: Path) -> None:
    """The oracle's row, and its model."""
    told = cli("unlearn", run, "--method=retrain", "--forget=client=2", "--name=again", "--seeds=1")
    assert told.code == 0, told.err
    outcome = read_comparison(run / "unlearned" / "again")
    assert outcome.best.name == "oracle"
    assert [row.kind for row in outcome.rows] == ["original", "oracle", "baseline", "baseline"]
    oracles = (run / "unlearned" / "oracles").iterdir()  # of several seeds
    oracle = next(folder for folder in oracles if yaml.safe_load((folder / "config.yaml").read_text())["seed"] == 0)
    kept, trained = (load_model(folder / "model.safetensors") for folder in (run / "unlearned" / "again", oracle))
    assert all(torch.equal(kept[name], value) for name, value in trained.items())
    assert "the oracle. Forgets: class, samples, clients" in cli("list", "unlearning").out


def test_costs_are_told(cli: Cli, run: Path) -> None:
    told = cli(
        "unlearn", run, "--method=finetune", "--forget=client=2", "--compare=retrain", "--name=costs", "--seeds=1"
    )
    assert re.search(r"finetune took \d+\.\d\d s and up to [\d,]+ MB\n", told.out)
    assert re.search(r"attacks took \d+\.\d s on the original", told.out)
    outcome = read_comparison(run / "unlearned" / "costs")
    assert all(row.mean("attack_seconds") > 0 for row in outcome.rows)
    assert outcome.best.mean("peak_mb") >= 0
    assert "Peak MB" in (run / "unlearned" / "costs" / "report.html").read_text()


def test_the_same_command_gives_the_same_bits(run: Path) -> None:
    folders = [unlearn(run, ["finetune"], "class=3+random=0.05").folder for _ in range(2)]
    assert folders[1].name == f"{folders[0].name}-2"
    one, two = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert one == two


def test_from_the_command_line(cli: Cli, run: Path) -> None:
    told = cli("unlearn", run, "--method", "finetune", "--forget", "client=2", "--set", "lr=0.02", "--name", "mine")
    assert told.code == 0, told.err
    assert "No verdict: --compare retrain" in told.out
    asked = yaml.safe_load((run / "unlearned" / "mine" / "config.yaml").read_text())["unlearn"]
    assert asked["methods"]["finetune"]["lr"] == 0.02
    quiet = cli("unlearn", run, "--method=finetune", "--forget=client=2", "--name=mine", "--force", "--quiet")
    assert quiet.out == f"{run / 'unlearned' / 'mine'}\n"


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have a method that raises, and one that diverges."""
    load_unlearning("finetune")
    known = dict(methods._methods)
    monkeypatch.setattr(methods, "_methods", known)

    @unlearning("raises", UnlearningConfig, needs=Needs(), forgets={"clients"})
    def raises(
        model: Classifier, forget: View, retain: View | None, config: UnlearningConfig, rng: np.random.Generator
    ) -> Classifier:
        raise ValueError("no way")

    @unlearning("diverges", UnlearningConfig, needs=Needs(), forgets={"clients"})
    def diverges(
        model: Classifier, forget: View, retain: View | None, config: UnlearningConfig, rng: np.random.Generator
    ) -> Classifier:
        with torch.no_grad():
            model.classifier.bias.fill_(torch.nan)
        return model

    monkeypatch.setattr("unlearning.pipeline.entries.load_unlearning", known.__getitem__)


@pytest.mark.usefixtures("broken")
def test_a_method_that_raises_costs_its_own_row_only(run: Path) -> None:
    outcome = unlearn(run, ["raises", "finetune"], "client=2")
    assert outcome.comparison.notes == ["raises failed (ValueError: no way)"]
    assert outcome.comparison.best.name == "finetune"
    before = files(run)
    with pytest.raises(RunFailed, match=r"raises failed \(ValueError: no way\); nothing was written"):
        unlearn(run, ["raises"], "client=2")
    assert files(run) == before


@pytest.mark.usefixtures("broken")
def test_a_diverged_model_is_last_and_flagged(run: Path) -> None:
    outcome = unlearn(run, ["diverges", "finetune"], "client=2", compare="retrain", name="diverged", seeds=1)
    last = read_comparison(outcome.folder).rows[-1]
    assert (last.name, last.flags) == ("diverges", {"diverged": 1})
    assert set(last.metrics) - {"peak_mb"} == {"seconds", "time_share", "attack_seconds"}


def test_a_model_that_a_method_cannot_work_on_is_told_before_the_oracle(cli: Cli, run: Path) -> None:
    before = files(run)
    told = cli("unlearn", run, "--method=ct", "--forget=class=4", "--compare=retrain")
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "no convolution" in told.err
    assert files(run) == before
