"""The pool of Ray actors: what outlives an engine, what does not, and the messages of failures."""

import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tests.fedsim.engine.fakes as fakes
from fedsim.errors import FedsimError
from tests.fedsim.engine.kinds import RAY_LEFTOVERS, MakeEngine

pytestmark = [pytest.mark.ray, *RAY_LEFTOVERS]


@pytest.mark.slow
def test_the_next_engine_reuses_the_processes(ray_engine: MakeEngine) -> None:
    engine = ray_engine(fakes.EchoWorker, 4, 1)
    before = set(fakes.own_workers(busy=False))
    list(engine.stream(fakes.numbered([0, 1, 2, 3])))
    engine.close()
    engine = ray_engine(fakes.foreign_worker, 8, 1)
    assert set(fakes.own_workers(busy=False)) == before
    assert engine.states.committed() == []


@pytest.mark.slow
def test_a_closed_engine_frees_its_data(ray_engine: MakeEngine) -> None:
    import ray

    engine = ray_engine(partial(fakes.BigWorker, 10), 4, 1)
    idle = stored_bytes(ray)
    engine.close()
    data = np.zeros(20_000_000, np.uint8)
    engine = ray_engine(partial(carrying, data), 4, 1)
    assert stored_bytes(ray) >= idle + 20_000_000
    engine.close()
    deadline = time.monotonic() + 20
    while stored_bytes(ray) >= 20_000_000 and time.monotonic() < deadline:
        time.sleep(0.2)
    assert stored_bytes(ray) < 20_000_000


def carrying(data: np.ndarray) -> fakes.EchoWorker:
    worker = fakes.EchoWorker()
    worker.data = data
    return worker


def stored_bytes(ray: Any) -> float:
    free = ray.available_resources().get("object_store_memory", 0.0)
    return float(ray.cluster_resources()["object_store_memory"] - free)


def test_a_worker_that_cannot_be_set_up_is_one_line(ray_engine: MakeEngine) -> None:
    with pytest.raises(
        FedsimError, match=r"^engine: a Ray worker cannot be set up \(RuntimeError: no such device.*\)$"
    ):
        ray_engine(fakes.unbuildable, 4, 1)
    engine = ray_engine(fakes.EchoWorker, 4, 1)  # and the pool is as good as before
    assert len(list(engine.stream(fakes.numbered([0, 1])))) == 2


def test_more_than_there_is_room_for_is_one_line(ray_engine: MakeEngine) -> None:
    ray_engine(fakes.EchoWorker, 4, 1)
    with pytest.raises(FedsimError, match=r"too few for 1 workers of 1 CPUs and 1 GPUs"):
        ray_engine(fakes.EchoWorker, 4, 1, num_workers=1, gpus_per_worker=1.0)
    with pytest.raises(FedsimError, match=r"another run of this process holds Ray with other options"):
        ray_engine(fakes.EchoWorker, 4, 1, num_workers=500)


def test_actors_have_names_and_their_own_threads(ray_engine: MakeEngine) -> None:
    import ray

    ray_engine(fakes.EchoWorker, 4, 1, threads=2, num_workers=1)
    names = [name for name in ray.util.list_named_actors() if name.startswith(f"fedsim-{os.getpid()}-")]
    assert len(names) == 1
    actor = ray.get_actor(names[0])
    assert ray.get(actor.__ray_call__.remote(lambda self: os.environ["OMP_NUM_THREADS"])) == "2"


def test_all_that_is_started_listens_on_loopback(ray_engine: MakeEngine) -> None:
    import ray

    from fedsim.engine.ray_metrics import metrics_address

    ray_engine(fakes.EchoWorker, 4, 1)
    (node,) = [node for node in ray.nodes() if node["Alive"]]
    assert node["NodeManagerAddress"] == "127.0.0.1"
    ports = {node["NodeManagerPort"], node["ObjectManagerPort"], int(metrics_address().split(":")[2].split("/")[0])}
    listening: dict[int, set[str]] = {}
    for table in ("tcp", "tcp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address, port = local.split(":")
            if state == "0A":
                listening.setdefault(int(port, 16), set()).add(address)
    loopback = {"0100007F", "0000000000000000FFFF00000100007F"}
    assert all(listening[port] <= loopback for port in ports)


@pytest.mark.slow
def test_a_temporary_folder_of_a_long_name_stops_nothing(tmp_path: Path) -> None:
    """Sockets below it would have names that are too long; Ray's session has a folder of its own."""
    temporary = tmp_path / ("long" * 25)
    temporary.mkdir()
    command = [sys.executable, "-m", "fedsim", "run", "--engine=ray", "--clients=4", "--rounds=1", "--quiet"]
    command += [f"--out={tmp_path}", "--set=engine.num_workers=1"]
    environment = os.environ | {"TMPDIR": str(temporary)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
