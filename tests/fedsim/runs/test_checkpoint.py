import errno
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

import fedsim.runs.checkpoint
from fedsim.engine.states import ClientStates
from fedsim.errors import FedsimError
from fedsim.flower.records import to_record
from fedsim.runs.checkpoint import Checkpoint, load_latest, load_model, save_model
from tests.strategies.small_runs import begin


def checkpoint(server_round: int, states: ClientStates | None = None) -> Checkpoint:
    return Checkpoint(
        server_round,
        {"z": torch.full((2,), float(server_round)), "a": torch.tensor(3), "b": torch.tensor([True])},
        ({"momentum": torch.empty(0, 2)}, {"step": server_round, "history": [0.1, None]}),
        states or ClientStates(),
        [0, 5],
        [{"round": r, "time_s": 0.1 * r, "metrics": {"x": 1 / 3, "lost": None}} for r in range(1, server_round + 1)],
        2,
        {"strategy.name": "fedavg", "training.lr": 0.1, "data.imbalance_factor": 1, "cohort": None},
        [4, 0, 1],
        1 / 3,
    )


def state(number: int) -> RecordDict:
    return RecordDict({"personal": to_record({"w": torch.full((3,), float(number))})})


def names(run: Path) -> list[str]:
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def test_round_trip(tmp_path):
    states = ClientStates()
    states.stage(5, state(7))
    states.commit()
    states.stage(6, state(8))  # of a round that is not whole
    saved = checkpoint(3, states)
    saved.save(tmp_path)
    back = load_latest(tmp_path)
    assert back is not None
    assert list(back.model) == ["z", "a", "b"]  # sums over names go in this order
    for part, like in ((back.model, saved.model), (back.server[0], saved.server[0])):
        for name, value in part.items():
            assert value.dtype == like[name].dtype
            assert torch.equal(value, like[name])
    assert back.server[1] == saved.server[1]
    assert (back.round, back.trained, back.metrics, back.failures) == (3, [0, 5], saved.metrics, 2)
    assert back.recipe == saved.recipe
    assert (back.took_part, back.clip_norm) == ([4, 0, 1], 1 / 3)
    assert back.clients.committed() == [5]
    assert repr(back.clients[5]) == repr(state(7))


@settings(deadline=None, max_examples=30)
@given(
    st.dictionaries(
        st.text(min_size=1, max_size=5),
        st.tuples(st.lists(st.integers(0, 3), max_size=3), st.sampled_from([torch.float32, torch.int64, torch.bool])),
        max_size=4,
    )
)
def test_any_tensors(tmp_path_factory, described):
    run = tmp_path_factory.mktemp("run")
    tensors = {name: torch.ones(shape).to(dtype) for name, (shape, dtype) in described.items()}
    Checkpoint(1, tensors, (tensors, {}), ClientStates(), [], [], 0, {}, [], None).save(run)
    back = load_latest(run)
    assert back is not None
    for part in (back.model, back.server[0]):
        assert list(part) == list(tensors)
        assert all(torch.equal(part[name], tensors[name]) and part[name].dtype == tensors[name].dtype for name in part)


def test_two_are_kept(tmp_path):
    for server_round in range(1, 5):
        checkpoint(server_round).save(tmp_path)
    assert names(tmp_path) == ["round-00000003", "round-00000004"]
    assert load_latest(tmp_path).round == 4


def test_the_same_round_again_replaces_it(tmp_path):
    states = ClientStates()
    states.stage(1, state(1))
    states.commit()
    for _ in range(2):
        checkpoint(1, states).save(tmp_path)
    assert names(tmp_path) == ["round-00000001"]
    assert repr(load_latest(tmp_path).clients[1]) == repr(state(1))


def test_states_outlive_the_checkpoints_they_came_from(tmp_path):
    """A resumed run reads states from its checkpoint when they are wanted, which may be after it was pruned."""
    states = ClientStates()
    for client in range(3):
        states.stage(client, state(client))
    states.commit()
    checkpoint(1, states).save(tmp_path)
    resumed = ClientStates(memory_bytes=0)
    resumed.adopt(load_latest(tmp_path).clients.files())
    for server_round in range(2, 6):
        resumed.stage(0, state(server_round))
        resumed.commit()
        checkpoint(server_round, resumed).save(tmp_path)
    assert names(tmp_path) == ["round-00000004", "round-00000005"]
    assert [repr(resumed[client]) for client in range(3)] == [repr(state(number)) for number in (5, 1, 2)]
    back = load_latest(tmp_path).clients
    assert [repr(back[client]) for client in range(3)] == [repr(state(number)) for number in (5, 1, 2)]


@pytest.mark.parametrize("step", ["write_committed", "save_file", "fsync", "rename"])
def test_a_write_that_fails_midway_is_not_seen(tmp_path, monkeypatch, step):
    states = ClientStates()
    states.stage(1, state(1))
    states.commit()
    checkpoint(1, states).save(tmp_path)
    states.stage(1, state(2))
    states.commit()

    def fail(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        where = {"write_committed": ClientStates, "rename": Path}.get(step, fedsim.runs.checkpoint)
        patch.setattr(where, step, fail)
        with pytest.raises(OSError, match="No space"):
            checkpoint(2, states).save(tmp_path)
    back = load_latest(tmp_path)
    assert back.round == 1
    assert repr(back.clients[1]) == repr(state(1))
    checkpoint(2, states).save(tmp_path)  # and once there is room again
    assert names(tmp_path) == ["round-00000001", "round-00000002"]
    assert repr(load_latest(tmp_path).clients[1]) == repr(state(2))


def test_none_yet(tmp_path):
    assert load_latest(tmp_path) is None


@pytest.mark.parametrize("file", ["tensors.safetensors", "state.json", "clients/1.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "garbage"])
def test_a_damaged_one_is_one_line(tmp_path, file, damage):
    states = ClientStates()
    states.stage(1, state(1))
    states.commit()
    checkpoint(1, states).save(tmp_path)
    checkpoint(2, states).save(tmp_path)
    path = tmp_path / "checkpoints" / "round-00000002" / file
    content = path.read_bytes()
    path.unlink()
    if damage != "gone":
        path.write_bytes(content[: len(content) // 2] if damage == "cut" else b"{}")
    with pytest.raises(FedsimError, match=r"^[^\n]*round-00000002: the checkpoint is damaged; remove [^\n]*$"):
        load_latest(tmp_path)
    shutil.rmtree(path.parents[len(Path(file).parts) - 1])
    assert load_latest(tmp_path).round == 1


def test_model_file(tmp_path):
    shared = torch.arange(6.0).reshape(2, 3)
    save_model(tmp_path / "a", {"b": shared, "a": shared.T, "flag": torch.tensor(True)})
    save_model(tmp_path / "b", {"flag": torch.tensor(True), "a": shared.T.clone(), "b": shared.clone()})
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert torch.equal(load_model(tmp_path / "a")["a"], shared.T)
    (tmp_path / "a").write_bytes(b"x")
    with pytest.raises(FedsimError, match="not a readable model file"):
        load_model(tmp_path / "a")


def test_a_checkpoint_of_before_keys_were_renamed_goes_on(tmp_path):
    config = {"training.vectorize": "never", "training.chunk": 3}
    run = begin("fedavg", config)
    run.advance(1)
    saved = run.simulation.checkpoint(run.state, run.engine)
    before = {key: value for key, value in saved.recipe.items() if key != "training.vectorize"}
    replace(saved, recipe={**before, "training.cohort": "sequential"}).save(tmp_path)
    assert begin("fedavg", config, load_latest(tmp_path)).state.round == 1
    with pytest.raises(FedsimError, match=r"training\.vectorize: its checkpoint was made with 'never', not 'always'"):
        begin("fedavg", {**config, "training.vectorize": "always"}, load_latest(tmp_path))
