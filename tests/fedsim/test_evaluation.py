import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics

import fedsim
from fedsim.data import DataConfig, load_dataset
from fedsim.evaluation import TestSet, auc, imbalance_metrics


@st.composite
def predictions(draw):
    """Probabilities (N, C) with many ties, and labels that may lack classes."""
    classes, count = draw(st.integers(2, 4)), draw(st.integers(2, 25))
    rows = st.lists(st.integers(1, 4), min_size=classes, max_size=classes)
    odds = np.array(draw(st.lists(rows, min_size=count, max_size=count)), dtype=np.float64)
    labels = np.array(draw(st.lists(st.integers(0, classes - 1), min_size=count, max_size=count)))
    return odds / odds.sum(axis=1, keepdims=True), labels


@settings(max_examples=200, deadline=None)
@given(predictions())
@pytest.mark.filterwarnings("ignore::UserWarning:sklearn")  # of classes that are predicted and not there
def test_scores_of_uneven_classes_are_scikit_learns(drawn):
    p, y = drawn
    ours = imbalance_metrics(np.log(p), y)
    guess = p.argmax(axis=1)
    assert ours["balanced_accuracy"] == pytest.approx(metrics.balanced_accuracy_score(y, guess))
    assert ours["f1_macro"] == pytest.approx(metrics.f1_score(y, guess, average="macro"))
    there = np.unique(y)
    if len(there) == 1:
        assert "auc" not in ours
        return
    if p.shape[1] == 2:
        theirs = metrics.roc_auc_score(y, p[:, 1])
    elif len(there) == p.shape[1]:
        theirs = metrics.roc_auc_score(y, p, multi_class="ovr", average="macro")
    else:
        theirs = np.mean([metrics.roc_auc_score(y == c, p[:, c]) for c in there])
    assert ours["auc"] == pytest.approx(theirs)


def test_auc_counts_pairs():
    scores, positive = np.array([1.0, 2.0, 2.0, 3.0]), np.array([False, True, False, True])
    assert auc(scores, positive) == (1 + 0.5 + 1 + 1) / 4
    assert auc(np.full(4, np.nan), positive) == 0.5  # a model that diverged


def measured(y_test, metrics="auto", num_classes=2):
    digits = load_dataset(DataConfig(), 0)
    rows = np.arange(len(y_test))
    few = dataclasses.replace(digits, x_test=digits.x_test[rows], y_test=np.array(y_test), num_classes=num_classes)
    tests = TestSet(few, torch.device("cpu"), metrics=metrics)
    score = tests.score(lambda x: {"": x.flatten(1)[:, :num_classes]})[""]
    return set(score.metrics("global", {})) - {"global/accuracy", "global/loss"}


def test_they_are_measured_where_accuracy_hides_something():
    more = {"global/balanced_accuracy", "global/f1_macro", "global/auc"}
    assert measured([0, 1]) == more  # two classes
    assert measured([0, 0, 1, 2], num_classes=3) == more  # uneven ones
    assert measured([0, 1, 2], num_classes=3) == set()
    assert measured([0, 1, 2], "all", 3) == more
    assert measured([0, 0, 1, 2], "accuracy", 3) == set()


def test_the_last_round_is_evaluated_once(tmp_path, no_pictures, monkeypatch):
    scored = []
    score = TestSet.score
    monkeypatch.setattr(TestSet, "score", lambda *given: scored.append(score(*given)) or scored[-1])
    options = {"out": str(tmp_path), "name": "r", "clients": 3, "rounds": 2, "model.name": "logistic"}
    result = fedsim.run(options)
    assert len(scored) == 2
    summary = fedsim.runs.folder.RunFolder.open(result.folder).summary
    assert summary.per_class_accuracy == scored[-1]["model"].per_class.tolist()
    assert np.mean(summary.per_class_accuracy) == pytest.approx(result.final["global/accuracy"])
    fedsim.resume(result.folder)  # whose last round was evaluated in another process, for all that is known
    assert len(scored) == 3


def test_a_run_imports_no_scikit_learn_and_its_figures_no_pyplot(tmp_path):
    options = {"out": str(tmp_path), "clients": 3, "rounds": 1, "model.name": "logistic", "eval_metrics": "all"}
    program = (
        "import sys; from fedsim.runs import runner; runner._write_pictures = id; "
        f"runner.run({options | {'data.partition': 'iid'}!r}); assert 'sklearn' not in sys.modules; "
        "import numpy as np; from fedsim.report.plots import partition_plot, png; "
        "png(partition_plot(np.ones((3, 3), int))); assert 'matplotlib.pyplot' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
