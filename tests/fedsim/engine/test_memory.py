"""The server's memory does not grow with the cohort."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import resource, sys
import torch
import tests.fedsim.engine.fakes as fakes
from flwr.app import ConfigRecord, Message, RecordDict
from fedsim.federated.types import State
from fedsim.flower.internals import node_of
from fedsim.engine.inprocess import InProcessEngine
from fedsim.flower.records import to_record, to_tensors
from fedsim.config.resolve import resolve
from fedsim.federated.server import Server

size, cohort, chunk = map(int, sys.argv[1:])
server = object.__new__(Server)  # its aggregation needs little more than the tensors of round 0
server.measured, server.senders, server.central, server.config = {}, [], None, resolve()

def peak_bytes():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

def run(size, cohort, chunk):
    engine = InProcessEngine(fakes.BigWorker(size), cohort, chunk)
    server.first = State({"w": torch.zeros(size)}, {})
    content = RecordDict({"arrays": to_record({"w": torch.zeros(size)})})
    messages = [Message(content, node_of(client), "train") for client in range(cohort)]
    arrays, _ = server.aggregate_train(1, engine.stream(messages))
    assert float(to_tensors(arrays)["w"][-1]) == (cohort - 1) / 2

run(1000, 2, 1)
before = peak_bytes()
run(size, cohort, chunk)
print((peak_bytes() - before) / (4 * size))
"""


@pytest.mark.parametrize(("size", "cohort"), [(1_000_000, 60), pytest.param(10_000_000, 1000, marks=pytest.mark.slow)])
def test_in_models(size: int, cohort: int) -> None:
    """A cohort of 1,000 with 10 M parameters takes less than 12 models, five of which are a chunk's replies."""
    path = os.pathsep.join([str(Path(__file__).parents[3]), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(size), str(cohort), "5"],
        env={**os.environ, "PYTHONPATH": path, "MALLOC_MMAP_THRESHOLD_": "1000000"},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) < 12
