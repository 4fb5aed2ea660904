"""Disturbances of runs on Ray: on a cluster of the run's own, and on one of two nodes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from tortures.nodes import TwoNodes, descendants
from tortures.trial import PATIENCE_S, Failed, Trial, text_of

_LONG = ["--set=rounds=400", "--set=eval_every=400"]

PROGRAM = """
import sys
from fedsim.cli.main import main
from fedsim.runs import runner
runner._write_pictures = lambda folder: None
main(sys.argv[1:])
"""


def _begin(trial: Trial, *more: str, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    flags = [*trial.whole.flags, f"--out={trial.folder}", "--name=run", "--set=engine.num_workers=2", *_LONG, *more]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        cwd="/", env=environment, start_new_session=True,
    )  # fmt: skip


def _wait_for_rounds(trial: Trial, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 120
    while not text_of(trial.run / "metrics.jsonl").count("\n") >= 2 and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.05)
    time.sleep(trial.rng.uniform(0, 1))


def _end(trial: Trial, process: subprocess.Popen[str]) -> None:
    """Wait for the run, complete it in this process, and compare with the undisturbed run."""
    try:
        _, err = process.communicate(timeout=PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Failed("lost", "the run on Ray hangs") from None
    lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
    if "Traceback" in err or len(lines) > 1 or (process.returncode and not lines):
        raise Failed("crash", f"{process.returncode}\n{err[-3000:]}")
    trial.told = process.returncode != 0
    trial.notes += err.splitlines()
    if not trial.run.exists():
        raise Failed("lost", f"the run did not begin: {err[-500:]}")
    ended = trial.start("run", "--resume", trial.run, "--set=engine.device=cpu").wait()
    if ended.code != 0:
        raise Failed("lost", ended.err)
    like = trial.whole.run.parent / "long"
    if not like.exists():
        trial.start("run", *trial.whole.flags, *_LONG, f"--out={like.parent}", "--name=long").wait()
    trial.compare(trial.run, like, ended)


def _kill_one(trial: Trial, pid: int, pattern: str) -> None:
    """Kill one of the descendants of a process whose command lines match."""
    victims = [below for below, words in descendants(pid).items() if re.search(pattern, words)]
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(trial.rng.choice(victims), signal.SIGKILL)


def _strike(trial: Trial, pattern: str, times: int = 1) -> None:
    process = _begin(trial, "--engine=ray")
    _wait_for_rounds(trial, process)
    for _ in range(times):
        _kill_one(trial, process.pid, pattern)
        time.sleep(trial.rng.uniform(0.1, 1))
    _end(trial, process)


def ray_worker(trial: Trial) -> None:
    """Kill Ray workers."""
    _strike(trial, r"^ray::FedsimWorker", trial.rng.randint(1, 6))


def ray_agent(trial: Trial) -> None:
    """Kill an agent of Ray; the raylet ends without it."""
    _strike(trial, r"^ray::(DashboardAgent|RuntimeEnvAgent)")


def ray_raylet(trial: Trial) -> None:
    """Kill the local raylet."""
    _strike(trial, r"/raylet/raylet ")


def ray_gcs(trial: Trial) -> None:
    """Kill Ray's head."""
    _strike(trial, r"/gcs/gcs_server ")


def _strike_two(trial: Trial, kill: Callable[[TwoNodes], None]) -> None:
    nodes = TwoNodes()
    try:
        process = _begin(trial, f"--ray-address=127.0.0.1:{nodes.port}", environment=nodes.environment)
        _wait_for_rounds(trial, process)
        kill(nodes)
        _end(trial, process)
    finally:
        for node in (1, 0):
            nodes.kill(node)
        shutil.rmtree(nodes.folder, ignore_errors=True)


def ray_second_raylet(trial: Trial) -> None:
    """Kill the raylet of the second of two nodes."""
    _strike_two(trial, lambda nodes: _kill_one(trial, nodes.nodes[1].pid, r"/raylet/raylet "))


def ray_second_node(trial: Trial) -> None:
    """Kill all processes of the second of two nodes."""
    _strike_two(trial, lambda nodes: nodes.kill(1))


def ray_head(trial: Trial) -> None:
    """Kill the GCS of a cluster of two nodes, or all processes of its head."""
    if trial.rng.random() < 0.5:
        _strike_two(trial, lambda nodes: _kill_one(trial, nodes.nodes[0].pid, r"/gcs/gcs_server "))
    else:
        _strike_two(trial, lambda nodes: nodes.kill(0))
