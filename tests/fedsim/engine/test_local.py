"""What the engine of one machine decides, and what is left of it when its process is killed."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import tests.fedsim.engine.fakes as fakes
from fedsim.config.run import EngineConfig
from fedsim.engine.forks import can_fork
from fedsim.engine.local import LocalEngine

pytestmark = pytest.mark.skipif(not can_fork(), reason="this system does not fork")


@contextlib.contextmanager
def auto(delay_s: float, chunk: int, rounds: int) -> Iterator[tuple[LocalEngine, list[str]]]:
    """Yield an engine of two cores after four rounds of four clients, and what it said after each."""
    worker = fakes.EchoWorker(delay_s=[delay_s])
    engine = LocalEngine(worker, 4, chunk, EngineConfig(num_workers=2), rounds)
    said = []
    with contextlib.closing(engine):
        for server_round in range(1, 5):
            replies = list(engine.stream(fakes.numbered([0, 1, 2, 3])))
            assert [dict(reply.content.metric_records["metrics"])["client"] for reply in replies] == [0, 1, 2, 3]
            engine.report({"round": server_round})
            said.append(engine.notes.get("engine", ""))
        yield engine, said


def test_workers_are_forked_where_what_is_left_is_worth_it() -> None:
    with auto(0.1, 1, 50) as (_, said):
        assert said[:3] == ["", "2 worker processes from round 3 on", "2 worker processes from round 3 on"]
        told = r"2 worker processes \(the clients of a round take [0-9.]+ s in them, and took [0-9.]+ s in one\)"
        assert re.fullmatch(told, said[3])


@pytest.mark.parametrize(
    ("delay_s", "chunk", "rounds", "why"),
    [(0.05, 1, 7, "5 rounds are left"), (0.1, 4, 900, "one chunk has most of it"), (0.0, 1, 5, "")],
)
def test_all_stays_in_this_process_where_it_is_not(delay_s: float, chunk: int, rounds: int, why: str) -> None:
    with auto(delay_s, chunk, rounds) as (_, said):
        assert said[3].startswith("inprocess, with up to 2 threads (the clients of a round take ")
        assert why in said[3]
        assert said[1] == said[3]


_PARENT = """
import sys, time
import tests.fedsim.engine.fakes as fakes
from fedsim.config.run import EngineConfig
from fedsim.engine.local import LocalEngine
engine = LocalEngine(fakes.EchoWorker(delay_s=[0.0, 60.0]), 4, 1, EngineConfig(name="local", num_workers=2), 1)
replies = engine.stream(fakes.numbered([0, 1, 2, 3]))
next(replies)
print(*(fork.pid for fork in engine._pool._forks), flush=True)
time.sleep(60)
"""


def test_forks_end_with_their_process_even_in_the_middle_of_a_chunk() -> None:
    root = Path(__file__).parents[3]
    with subprocess.Popen([sys.executable, "-c", _PARENT], cwd=root, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        forks = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(forks) == 2
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        deadline = time.monotonic() + 10
        while any(map(is_running, forks)) and time.monotonic() < deadline:
            time.sleep(0.02)
        assert not any(map(is_running, forks))


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
