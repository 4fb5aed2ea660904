"""Samples with several labels: trained in a federation, forgotten, measured; what needs classes says so."""

from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.errors import FedsimError
from unlearning.pipeline.runner import unlearn

LABELS = 3


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("labels")
    rng = np.random.default_rng(0)
    x = rng.normal(size=(260, 12))
    y = (x[:, :LABELS] > 0).astype(np.int64)
    np.savez(root / "labels.npz", x_train=x[:160], y_train=y[:160], x_test=x[160:], y_test=y[160:],
             identity_train=np.arange(160) // 4)  # fmt: skip
    result = fedsim.run(
        {"data": {"name": f"npz:{root / 'labels.npz'}"}, "clients": 4, "rounds": 12, "out": str(root), "name": "run",
         "model": {"name": "mlp", "hidden": [16]}, "training": {"epochs": 2, "lr": 0.5}, "eval_clients": "all",
         "checkpoint_every": 20}
    )  # fmt: skip
    return result.folder


def test_each_label_is_learned(run: Path) -> None:
    from fedsim.runs.folder import RunFolder

    folder = RunFolder.open(run)
    final = folder.final_metrics
    assert final["global/accuracy"] > 0.85  # guessing is 0.5
    assert final["global/auc"] > 0.9
    assert final["clients/accuracy"] > 0.85
    assert folder.config["data"]["partition"]["name"] == "iid"


def test_methods_that_serve_them_forget_and_the_others_say_why_not(run: Path) -> None:
    outcome = unlearn(run, ["finetune", "scrub", "neggrad_plus", "random_labels"], "identity=0-9")
    rows = {row.name: row for row in outcome.comparison.rows}
    assert rows["constant"].mean("accuracy_test") < 0.65 < rows["scrub"].mean("accuracy_test")
    assert rows["random_labels"].mean("accuracy_forget") < rows["original"].mean("accuracy_forget")
    assert len(rows["original"].class_accuracy) == LABELS
    assert "probe_forget" not in rows["original"].metrics
    assert outcome.comparison.num_unseen > 30
    assert len(outcome.comparison.forgotten_classes) == LABELS
    with pytest.raises(FedsimError, match="laf needs one class for each sample, and these have several labels"):
        unlearn(run, ["laf"], "identity=0-9")
    with pytest.raises(FedsimError, match="these samples have several labels, not a class"):
        unlearn(run, ["finetune"], "class=1")


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        ({"data.partition": "dirichlet"}, "data.partition: dirichlet splits by class, and npz:.* has several labels"),
        ({"strategy.name": "fedetf"}, "strategy.name: fedetf needs classes, and npz:.* has several labels"),
        ({"data.labelled_fraction": 0.5}, "data.labelled_fraction: must be 1"),
        ({"data.stages.count": 2, "rounds": 4}, "data.stages: classes arrive in stages, and npz:.* has several labels"),
    ],
)
def test_what_goes_by_classes_is_refused(run: Path, overrides: dict[str, object], line: str) -> None:
    name = f"npz:{run.parent / 'labels.npz'}"
    with pytest.raises(FedsimError, match=line) as told:
        fedsim.run({"data": {"name": name}, "out": str(run.parent)}, overrides=overrides)
    assert "\n" not in str(told.value)
