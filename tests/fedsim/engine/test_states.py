import tempfile
from pathlib import Path

import torch
from flwr.app import RecordDict
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.engine.client_state_file import read_records
from fedsim.engine.states import ClientStates
from fedsim.flower.records import to_record
from tests.fedsim.engine.small_states import number_of, state

CLIENTS = st.integers(0, 4)
ACTIONS = st.one_of(
    st.tuples(st.just("stage"), CLIENTS, st.integers(0, 99)),
    st.tuples(st.just("get"), CLIENTS),
    st.tuples(st.sampled_from(["commit", "discard", "checkpoint", "resume"])),
)


@settings(max_examples=150, deadline=None)
@given(actions=st.lists(ACTIONS, max_size=30), memory_bytes=st.sampled_from([0, 2500, 1 << 30]))
def test_any_history_is_that_of_two_dicts(actions, memory_bytes):
    kept: dict[int, int] = {}
    staged: dict[int, int] = {}
    with tempfile.TemporaryDirectory() as name:
        checkpoints = 0
        states = ClientStates(memory_bytes)
        states.spill_to(Path(name) / "spilled")
        for action, *arguments in actions:
            match action:
                case "stage":
                    client, number = arguments
                    staged[client] = number
                    states.stage(client, state(number))
                case "get":
                    (client,) = arguments
                    assert number_of(states[client]) == (kept | staged).get(client)
                case "commit":
                    kept |= staged
                    staged = {}
                    states.commit()
                case "discard":
                    staged = {}
                    states.discard()
                case "checkpoint":
                    folder, checkpoints = Path(name) / f"checkpoint-{checkpoints}", checkpoints + 1
                    folder.mkdir()
                    states.write_committed(folder)
                    states.moved_to(folder)
                    files = {int(path.stem): number_of(read_records(path)) for path in folder.iterdir()}
                    assert files == kept
                case "resume" if checkpoints:
                    kept = {int(path.stem): number_of(read_records(path)) for path in folder.iterdir()}
                    staged = {}
                    states.adopt({client: folder / f"{client}.safetensors" for client in kept})
            assert states.committed() == sorted(kept)
        for client in range(5):
            assert number_of(states[client]) == (kept | staged).get(client)
        spilled = Path(name) / "spilled"
        assert len(list(spilled.glob("*"))) <= len(kept) + len(staged)  # nothing superseded is left
        states.close()
        assert not spilled.exists()


def test_memory_is_bounded(tmp_path):
    """100 states of 80 kB each, 1 MB of memory."""
    states = ClientStates(1_000_000)
    states.spill_to(tmp_path / "spilled")
    for client in range(100):
        states.stage(client, RecordDict({"personal": to_record({"w": torch.full((20_000,), float(client))})}))
    states.commit()
    in_memory = [v for v in states._kept.values() if v.records is not None]
    assert 10 <= len(in_memory) <= 12
    assert len(list((tmp_path / "spilled").iterdir())) == 88
    assert number_of(states[0]) == 0
    assert number_of(states[99]) == 99


def test_the_ones_used_last_stay_in_memory(tmp_path):
    states = ClientStates(2500)  # two of about 1,012 bytes
    states.spill_to(tmp_path / "spilled")
    states.stage(0, state(0))
    states.stage(1, state(1))
    assert number_of(states[0]) == 0
    states.stage(2, state(2))
    assert {client for client, version in states._staged.items() if version.records is not None} == {0, 2}


def test_without_a_place_of_its_own_it_takes_a_temporary_folder():
    states = ClientStates(0)
    states.stage(0, state(7))
    folder = states._folder
    assert folder is not None
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]
    assert number_of(states[0]) == 7
    del states
    assert not folder.exists()


def test_what_a_killed_process_left_is_removed(tmp_path):
    (tmp_path / "spilled").mkdir()
    (tmp_path / "spilled" / "7.safetensors").write_bytes(b"x")
    ClientStates().spill_to(tmp_path / "spilled")
    assert not (tmp_path / "spilled").exists()
