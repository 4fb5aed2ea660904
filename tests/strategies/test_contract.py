"""The contract of all federated methods; a new method is tested automatically."""

from dataclasses import replace

import pytest
import torch

from fedsim.evaluation import TestSet
from fedsim.federated.client import Client
from fedsim.federated.registry import describe, load_strategy
from fedsim.federated.types import Phase
from fedsim.runs.checkpoint import load_latest
from fedsim.training import step_cache
from tests.strategies.small_runs import assert_same_bits, begin, finished, halves

METHODS = sorted(describe("strategies"))
every_method = pytest.mark.parametrize("method", METHODS)
every_client = pytest.mark.parametrize(
    "method", {load_strategy(method).client: method for method in reversed(METHODS)}.values()
)
"""One method of each client half."""


@every_method
def test_a_run_repeats_and_resumes_to_the_same_bits(method, tmp_path):
    whole = finished(method, {"cohort": 3, "rounds": 4})
    half = begin(method, {"cohort": 3, "rounds": 4})
    half.advance(2)
    half.simulation.checkpoint(half.state, half.engine).save(tmp_path)
    resumed = begin(method, {"cohort": 3, "rounds": 4}, load_latest(tmp_path))
    resumed.advance(2)
    assert_same_bits(resumed.tensors, whole.tensors)
    assert_same_bits(resumed.state.server[0], whole.state.server[0])
    for client in range(4):
        assert_same_bits(resumed.personal(client), whole.personal(client))


@every_client
def test_rounds_take_the_learning_rate_of_their_schedule(method, tmp_path):
    """The second round of a schedule is that of a constant rate of its height, to the bit."""
    plain = {"rounds": 2, "cohort": 3, "training.momentum": 0}
    scheduled = begin(method, plain | {"training.schedule": {"name": "steps", "at": [1], "multiply": 0.5}})
    scheduled.advance(1)
    scheduled.simulation.checkpoint(scheduled.state, scheduled.engine).save(tmp_path)
    scheduled.advance(1)
    low = plain | {"training.lr": 0.05}
    recipe = begin(method, low).simulation.config.recipe()
    constant = begin(method, low, replace(load_latest(tmp_path), recipe=recipe))
    constant.advance(1)
    assert_same_bits(scheduled.tensors, constant.tensors)
    assert_same_bits(scheduled.state.server[0], constant.state.server[0])


def recorded_and_called(method, monkeypatch):
    """Return a run whose steps are all recorded at once, and the same with every step called."""
    together = {"model.dropout": 0.3, "training.vectorize": "always", "training.chunk": 4, "rounds": 2}
    runs = []
    for patience in (10**9, 0):
        monkeypatch.setattr(step_cache, "_PATIENCE", patience)
        runs.append(finished(method, together))
    called, recorded = runs
    return recorded, called


@every_client
def test_recorded_steps_come_to_the_bits_of_those_called(method, monkeypatch):
    recorded, called = recorded_and_called(method, monkeypatch)
    assert_same_bits(recorded.tensors, called.tensors)
    for client in range(4):
        assert_same_bits(recorded.personal(client), called.personal(client))
    assert not called.simulation.worker.trainer.recorder._recordings
    assert all(recorded.simulation.worker.trainer.recorder._recordings.values())


class Fading(Client):
    """Trains with less weight in every round, which its loss learns as a tensor, or from Python in three ways."""

    how = "tensor"

    def phases(self):
        self.rounds = getattr(self, "rounds", 0) + 1
        return [Phase(self.fading, declares=self.rounds if self.how == "declared" else ())]

    def fading(self, params, buffers, extras, batch):
        loss, metrics = self.loss(params, buffers, extras, batch)
        return loss / (extras.server_round if self.how == "tensor" else self.rounds), metrics


@pytest.mark.parametrize(("how", "same"), [("tensor", True), ("declared", True), ("hidden", False)])
def test_a_coefficient_that_changes_is_followed_or_seen_to_be_frozen(how, same, monkeypatch):
    monkeypatch.setattr(Fading, "how", how)
    with halves("fedavg", client=Fading):
        recorded, called = recorded_and_called("fedavg", monkeypatch)
    assert all(torch.equal(recorded.tensors[name], value) for name, value in called.tensors.items()) is same


@every_method
def test_the_exported_model_predicts_as_the_first_head_and_keeps_its_types(method):
    run = finished(method)
    before, exported = run.simulation.server.initial(), run.simulation.server.export(run.tensors)
    assert {name: value.dtype for name, value in run.tensors.items()} == {n: v.dtype for n, v in before.items()}
    assert all(value.isfinite().all() for value in run.tensors.values())
    assert not before or any(not torch.equal(run.tensors[name], before[name]) for name in before)  # local shares none
    model = run.simulation.new_model(run.simulation.config)
    model.load_state_dict(exported)
    model.eval()
    tests = TestSet(run.simulation.data.dataset, torch.device("cpu"))
    plain = tests.score(lambda x: {"plain": model(x)})["plain"]
    for score in list(run.simulation.scores(run.tensors).values())[:1]:  # fedrep has no global head
        assert plain.accuracy == score.accuracy
        assert plain.loss == pytest.approx(score.loss, rel=1e-5)


@every_method
def test_running_variances_stay_positive_and_counters_count(method):
    run = finished(method)
    for name, value in run.tensors.items():
        if name.endswith("running_var"):
            assert (value > 0).all()
        if name.endswith("num_batches_tracked"):
            assert value.dtype == torch.int64
            assert value > 0
