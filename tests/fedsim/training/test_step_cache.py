"""Recorded steps against the steps themselves."""

import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, vmap

from fedsim.training import step_cache
from fedsim.training.step_cache import Recorder


@pytest.fixture(autouse=True)
def _at_once(monkeypatch):
    monkeypatch.setattr(step_cache, "_PATIENCE", 0)
    monkeypatch.setattr(step_cache, "_TRIED", 2)


def _given(lanes=3, samples=7, seed=0):
    g = torch.Generator().manual_seed(seed)
    weights = {"w": torch.randn(lanes, 5, 4, generator=g)}
    running = {"mean": torch.zeros(lanes, 4), "var": torch.ones(lanes, 4)}
    return weights, running, {"x": torch.randn(lanes, samples, 5, generator=g)}


def _loss(weights, running, batch):
    h = F.batch_norm(batch["x"] @ weights["w"], running["mean"], running["var"], training=True)
    value = F.dropout(h.relu(), 0.5).square().mean()
    return value, {"loss": value.detach()}


_step = vmap(grad(_loss, has_aux=True), randomness="different")


def _copied(given):
    return [{name: value.clone() for name, value in some.items()} for some in given]


def _bits(results):
    return [(name, value.numpy().tobytes()) for some in results for name, value in some.items()]


def test_results_what_is_written_and_draws_are_those_of_the_step():
    recorder, outcomes = Recorder(), []
    for call in (_step, lambda *given: recorder("step", _step, *given)):
        given = _copied(_given())
        torch.manual_seed(3)
        results = [_bits(call(*given)) for _ in range(4)]  # running statistics and draws go on from call to call
        outcomes.append((results, _bits(given), torch.get_rng_state().tolist()))
    assert outcomes[0] == outcomes[1]
    assert [recording is not None for recording in recorder._recordings.values()] == [True]


def test_a_step_is_called_until_it_has_come_often_enough(monkeypatch):
    monkeypatch.setattr(step_cache, "_PATIENCE", 3)
    calls = []

    def step(some):
        calls.append(1)
        return ({"y": some["x"] + 1},)

    recorder = Recorder()
    for number in range(1, 7):
        (result,) = recorder("step", step, {"x": torch.tensor([float(number)])})
        assert result["y"] == number + 1
    assert len(calls) == 3 + 2  # once more to write it down, and once to compare


def test_shapes_layouts_types_and_names_have_recordings_of_their_own():
    recorder = Recorder()
    matrix = torch.arange(6.0).reshape(2, 3)
    for factor, x in [(2, matrix), (2, matrix.T), (2, matrix.double()), (2, matrix.reshape(3, 2)), (3, matrix)]:
        (result,) = recorder(factor, lambda some, factor=factor: ({"y": some["x"].flatten() * factor},), {"x": x})
        assert result["y"].tolist() == [factor * value for value in x.flatten().tolist()]
        assert result["y"].dtype == x.dtype
    assert len(recorder._recordings) == 5


def test_a_step_that_cannot_be_recorded_is_called():
    held, drawn = torch.ones(2), iter(range(100))
    steps = {
        "looks": lambda some: ({"y": some["x"] * float(some["x"].sum())},),
        "holds": lambda some: ({"y": some["x"] + held},),
        "draws": lambda some: ({"y": some["x"] + next(drawn)},),
    }
    recorder, x = Recorder(), torch.tensor([1.0, 2.0])
    for name, step in steps.items():
        recorder(name, step, {"x": x})
    held += 1
    assert torch.equal(recorder("holds", steps["holds"], {"x": x})[0]["y"], x + 2)
    assert torch.equal(recorder("looks", steps["looks"], {"x": 2 * x})[0]["y"], 12 * x)
    one, other = (recorder("draws", steps["draws"], {"x": x})[0]["y"] for _ in range(2))
    assert torch.equal(other, one + 1)
    assert list(recorder._recordings.values()) == [None] * 3


def test_what_fails_fails_as_before_and_a_broadcast_tensor_can_be_given():
    recorder = Recorder()
    with pytest.raises(ZeroDivisionError):
        recorder("fails", lambda some: 1 / 0, {"x": torch.ones(2)})
    wide = torch.tensor([[1.0], [2.0]]).expand(2, 3)
    (result,) = recorder("wide", lambda some: ({"y": some["x"].sum(1)},), {"x": wide})
    assert result["y"].tolist() == [3.0, 6.0]


def test_only_so_many_shapes_are_remembered(monkeypatch):
    monkeypatch.setattr(step_cache, "_REMEMBERED", 2)
    recorder = Recorder()
    for size in range(1, 6):
        recorder("sum", lambda some: ({"y": some["x"].sum()},), {"x": torch.ones(size)})
    assert len(recorder._recordings) == 2


def _plain_loss(weights, running, batch):
    value = F.dropout((batch["x"] @ weights["w"]).relu(), 0.5).square().mean()
    return value, {"loss": value.detach()}


def _replayed(loss, threads):
    recorder, given = Recorder(), _copied(_given(lanes=40, samples=2000))  # enough for torch to divide the work
    recorder.allow_threads(threads)
    step = vmap(grad(loss, has_aux=True), randomness="different")
    torch.manual_seed(3)
    results = [_bits(recorder("step", step, *given)) for _ in range(6)]
    (recording,) = recorder._recordings.values()
    return (results, _bits(given), torch.get_rng_state().tolist()), recording._threads


@pytest.mark.parametrize(("loss", "used"), [(_plain_loss, 2), (_loss, 1)])
def test_threads_are_used_where_they_change_no_bits(monkeypatch, loss, used):
    """Statistics over a batch are summed in another order by two threads."""
    monkeypatch.setattr(step_cache, "_WORTHWHILE", float("inf"))
    (alone, one), (allowed, two) = _replayed(loss, 1), _replayed(loss, 2)
    assert (one, two) == (1, used)
    assert alone == allowed
    assert torch.get_num_threads() == 1


def test_threads_are_not_used_where_they_take_longer(monkeypatch):
    monkeypatch.setattr(step_cache, "_WORTHWHILE", 0.0)
    assert _replayed(_plain_loss, 2)[1] == 1


def test_whether_threads_help_is_tried_again(monkeypatch):
    """Two replays with each number of threads, then two with the better one, and so on."""
    monkeypatch.setattr(step_cache, "_TRIED_EVERY", 6)
    monkeypatch.setattr(step_cache, "_WORTHWHILE", float("inf"))
    used = []
    recording = step_cache._Recording(lambda some: ({"y": some["x"] + 1},), [{"x": torch.ones(3)}])
    monkeypatch.setattr(recording, "_replay", lambda x: used.append(torch.get_num_threads()) or [x + 1])
    for _ in range(8 + 2):
        recording.replay(2, [{"x": torch.zeros(3)}])
    assert used[:2] == [1, 2]  # whether they give the same bits
    assert used[2:] == [1, 1, 2, 2, 2, 2, 1, 1, 2, 2]
