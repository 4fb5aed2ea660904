"""Ray as a user of the command line meets it: started, watched, interrupted, killed, and not there at all."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from fedsim.engine.vigil import processes
from fedsim.runs.checkpoint import load_latest

MARK = "FEDSIM_TEST_MARK"
ENDED = "error: engine: this process was killed, or Ray has died and ended it"


@pytest.fixture
def marked() -> Iterator[dict[str, str]]:
    """Return an environment by which all processes started with it can be found; none is left behind."""
    mark = uuid.uuid4().hex
    yield {**os.environ, MARK: mark, "PYTHONPATH": os.pathsep.join(sys.path)}
    for pid in alive(mark):
        os.kill(pid, signal.SIGKILL)


def alive(mark: str) -> list[int]:
    """Return the processes that carry a mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if (
                mark.encode() in (folder / "environ").read_bytes()
                and b"\nState:\tZ" not in (folder / "status").read_bytes()
            ):
                found.append(int(folder.name))
        except OSError:  # it ended meanwhile, or is not ours
            continue
    return found


def wait_for(what: Callable[[], bool], seconds: float) -> bool:
    """Return whether it came true in time."""
    deadline = time.monotonic() + seconds
    while not what() and time.monotonic() < deadline:
        time.sleep(0.1)
    return what()


@contextlib.contextmanager
def start(env: dict[str, str], out: Path, *options: str) -> Iterator[subprocess.Popen[str]]:
    """Start a long run on Ray, as from a terminal: a process group of its own. It ends with the block."""
    command = [
        sys.executable, "-m", "fedsim", "run", "--engine", "ray", "--strategy", "fedloge", "--clients", "8",
        "--cohort", "4", "--rounds", "100000", "--out", str(out), "--name", "r", "--partition", "iid",
        "--set", "engine.num_workers=2", "--set", "training.vectorize=never", "--set", "training.chunk=2",
        "--set", "checkpoint_every=100000", "--set", "eval_every=100000", *options,
    ]  # fmt: skip
    with subprocess.Popen(
        command,
        env=env,
        start_new_session=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=heed_interrupts,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def heed_interrupts() -> None:
    """Undo what a shell does to the processes that it starts in the background."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def go_on(run: Path) -> str:
    return f"; to go on: fedsim run --resume {run}\n"


def rounds(run: Path) -> int:
    log = run / "metrics.jsonl"
    return len(log.read_text().splitlines()) if log.exists() else 0


@pytest.mark.ray
@pytest.mark.slow
def test_ctrl_c_leaves_a_good_checkpoint_and_no_process(tmp_path: Path, marked: dict[str, str]) -> None:
    run = tmp_path / "r"
    with start(marked, tmp_path) as process:
        assert wait_for(lambda: rounds(run) >= 3, 120)
        assert len(alive(marked[MARK])) > 3  # the run, Ray's daemons, two workers
        assert {os.getpriority(os.PRIO_PROCESS, pid) for pid in alive(marked[MARK])} == {os.nice(0)}  # none is starved
        os.killpg(process.pid, signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert err.startswith("error: interrupted")
    assert err.count("\n") == 1
    assert "ray" not in out.replace("engine: ray", "").replace("ray.", "").lower()
    assert wait_for(lambda: not alive(marked[MARK]), 20)
    checkpoint = load_latest(run)
    assert checkpoint is not None
    assert checkpoint.round == rounds(run) >= 3
    assert len(checkpoint.metrics) == checkpoint.round
    assert json.loads((run / "summary.json").read_text())["status"] == "stopped"


@pytest.mark.ray
@pytest.mark.slow
def test_kill_leaves_one_line_and_no_process_either(tmp_path: Path, marked: dict[str, str]) -> None:
    run = tmp_path / "r"
    with start(marked, tmp_path) as process:
        assert wait_for(lambda: rounds(run) >= 1, 300)
        process.kill()
        _, err = process.communicate(timeout=60)
    assert err == ENDED + go_on(run)
    assert wait_for(lambda: not alive(marked[MARK]), 120)  # Ray's agents look for its head for a minute


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize(
    ("program", "name"),
    [
        ("/raylet/raylet\0", "the raylet of this machine"),
        ("/gcs/gcs_server\0", "Ray's head"),
        ("ray::RuntimeEnvAgent", "an agent of this machine's raylet"),
        ("ray::DashboardAgent", "an agent of this machine's raylet"),
    ],
)
def test_a_ray_that_dies_costs_one_line_and_leaves_a_checkpoint(
    program: str, name: str, tmp_path: Path, marked: dict[str, str]
) -> None:
    """Ray's core may end the process before it has noticed, and its last words then say so."""
    run = tmp_path / "r"

    def victims() -> list[int]:
        """Return its children and grandchildren of that name; some have no environment any more to know them by."""
        table = processes()
        own = [pid for pid, (parent, _) in table.items() if parent == process.pid]
        return [pid for pid, (parent, words) in table.items() if program in words and parent in (process.pid, *own)]

    with start(marked, tmp_path, "--set", "checkpoint_every=1") as process:
        assert wait_for(lambda: rounds(run) >= 2, 300)
        assert wait_for(lambda: len(victims()) == 1, 60)
        os.kill(victims()[0], signal.SIGKILL)
        _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    by_itself = f"error: engine: {name} has died, and Ray with it{go_on(run)}"
    assert err in (by_itself, ENDED + go_on(run))
    checkpoint = load_latest(run)
    assert checkpoint is not None
    assert checkpoint.round in (rounds(run), rounds(run) - 1)
    if err == by_itself:
        assert checkpoint.round == rounds(run)
        assert json.loads((run / "summary.json").read_text())["status"] == "failed"


WATCHED = """
import json, subprocess, sys, time, urllib.request
from fedsim.config.resolve import resolve
from fedsim.runs.rounds import EngineGauges
from fedsim.runs.simulation import Simulation

port = int(sys.argv[1])
config = {"strategy": "fedavg", "clients": 8, "data.partition": "iid", "rounds": 99, "faults.dropout": 0.2,
    "training": {"vectorize": "never", "chunk": 2},
    "engine": {"name": "ray", "num_workers": 2, "dashboard": True, "dashboard_port": port}}
simulation = Simulation(resolve(config))
engine, state = simulation.engine(), simulation.begin()
note = engine.notes["dashboard"]
metrics = note.split("metrics: ")[1].rstrip(")")
token = subprocess.run(["ray", "get-auth-token"], capture_output=True, text=True).stdout.strip().splitlines()[-1]
def read(url):
    request = urllib.request.Request(url, headers={"Authorization": f"Bearer {token}"})
    return urllib.request.urlopen(request, timeout=20).read().decode()
shown, until = {}, time.monotonic() + 90
while len(shown) < 7 and time.monotonic() < until:  # six of the run, and GPU memory of each worker
    simulation.step(state, engine, [EngineGauges(engine, simulation)])
    for line in read(metrics).splitlines():
        if line.startswith("ray_fedsim_"):
            name = line.split("{")[0] + (line.split('worker="')[1].split('"')[0] if 'worker="' in line else "")
            shown[name] = float(line.split()[-1])
print(json.dumps({
    "note": note, "shown": shown, "rounds": state.round, "failures": state.failures,
    "version": json.loads(read(f"http://127.0.0.1:{port}/api/version")), "page": read(f"http://127.0.0.1:{port}/")[:20],
}))
engine.close()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.mark.ray
@pytest.mark.slow
def test_the_dashboard_shows_the_run(marked: dict[str, str]) -> None:
    """Ray collects what processes report every 10 s, hence slow."""
    port = free_port()
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, str(port)], env=marked, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["note"].startswith(f"http://127.0.0.1:{port} (metrics: http://127.0.0.1:")
    shown = {name.removeprefix("ray_fedsim_"): value for name, value in told["shown"].items()}
    assert 1 <= shown["round"] <= told["rounds"]
    assert 0 < shown["accuracy"] <= 1
    assert shown["clients_per_second"] > 0
    assert 0 <= shown["failures"] <= told["failures"]
    assert shown["bytes_sent"] > 0
    assert (
        sorted(name.rsplit("-", 1)[0].split("fedsim")[0] for name in shown if "gpu" in name) == ["gpu_memory_bytes"] * 2
    )
    assert "ray_version" in told["version"]
    assert told["page"].lower().startswith("<!doctype html>")


@pytest.mark.ray
def test_a_taken_port_is_one_line_and_leaves_no_folder(tmp_path: Path, marked: dict[str, str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with start(marked, tmp_path, "--dashboard", "--set", f"engine.dashboard_port={port}") as process:
            _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err == f"error: engine.dashboard_port: port {port} on 127.0.0.1 is in use; choose another\n"
    assert not (tmp_path / "r").exists()


@pytest.mark.ray
def test_a_cluster_that_is_not_there_is_one_line(tmp_path: Path, marked: dict[str, str]) -> None:
    with start(marked, tmp_path, "--ray-address", "127.0.0.1:1") as process:
        _, err = process.communicate(timeout=120)
    assert process.returncode == 2
    assert err.startswith("error: engine.ray_address: no Ray cluster answers at '127.0.0.1:1'")
    assert err.count("\n") == 1
    assert not (tmp_path / "r").exists()


WITHOUT_RAY = """
import json, sys
sys.modules["ray"] = None  # as where it is not installed
import fedsim.cli.main, fedsim.runs.runner
from fedsim.errors import FedsimError

fedsim.runs.runner._write_pictures = lambda folder: None
config = {"strategy": "fedavg", "clients": 4, "rounds": 1, "out": sys.argv[1], "data.partition": "iid"}
result = fedsim.runs.runner.run(config, overrides={"name": "fine"})
assert result.config.engine.name == "auto"  # this process, and forks of it where they pay
refused = []
for number, option in enumerate([{"engine.name": "ray"}, {"engine.num_workers": 2}, {"engine.dashboard": True}]):
    try:
        fedsim.runs.runner.run(config, overrides={"name": f"refused-{number}", **option})
    except FedsimError as error:
        refused.append(str(error))
import fedsim.engine.ray
try:
    fedsim.engine.ray.RayEngine(object, 4, 2, result.config.engine)
except FedsimError as error:
    refused.append(str(error))
print(json.dumps(refused))
"""


def test_without_ray_all_else_works(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RAY, tmp_path],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    remedy = "install it with: pip install 'ray[default]'"
    assert json.loads(done.stdout) == [
        f"engine.name: ray is not installed; {remedy}",
        f"engine.num_workers: needs Ray; {remedy}",
        f"engine.dashboard: needs Ray; {remedy}",
        f"engine.name: ray is not installed; {remedy}",
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["fine"]
