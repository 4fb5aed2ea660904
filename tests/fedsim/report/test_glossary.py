"""Every metric has a title and a sentence, and a run is about five of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.continual import measures
from fedsim.evaluation import imbalance_metrics
from fedsim.federated.registry import describe, load_strategy
from fedsim.report.glossary import headline, meaning
from fedsim.runs.client_scores import ClientScore, spread


@pytest.mark.parametrize("name", sorted(describe("strategies")))
def test_every_metric_that_a_methods_clients_report_is_explained(name: str) -> None:
    method = load_strategy(name)
    for metric in ("loss", *method.client.reports):
        said = meaning(f"train/{metric}", method.metrics)
        assert said.known, f"strategies declare what {metric} is: strategy(..., metrics={{...}})"
        assert said.title.startswith("Training: ")
        assert said.sentence.endswith(".")


def test_every_metric_that_a_run_measures_is_explained() -> None:
    table = np.array([[1.0, np.nan], [0.5, 1.0]])
    of_stages = measures(table, [1, 2], [np.array([0]), np.array([1])], [1, 2])
    of_clients = spread([ClientScore(0, False, {"accuracy": 0.5, "num-examples": 2})])
    imbalance = imbalance_metrics(np.log(np.full((2, 2), 0.5)), np.array([0, 1]))
    assert of_stages
    assert of_clients
    assert len(imbalance) == 3
    names = (
        [f"stages/{n}" for n in of_stages] + [f"clients/{n}" for n in of_clients] + [f"global/{n}" for n in imbalance]
    )
    for name in [*names, "global_x/accuracy", "train/clients_per_s", "server/seconds", "privacy/next_clip_norm"]:
        assert meaning(name).known, name


@given(st.lists(st.sampled_from(["global/accuracy", "train/loss", "x", "clients/accuracy", "a/b", "c", "d"])),
       st.lists(st.sampled_from(["x", "a/b", "gone"])))  # fmt: skip
def test_the_methods_own_come_first_and_nothing_that_is_not_there(names: list[str], wanted: list[str]) -> None:
    shown = headline(names, wanted)
    assert len(shown) <= 5
    assert set(shown) <= set(names)
    assert len(set(shown)) == len(shown)
    own = [name for name in dict.fromkeys(wanted) if name in names]
    assert shown[: len(own)] == own[:5]
    assert bool(shown) == bool(names)
