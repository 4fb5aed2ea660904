"""Deaths are noticed at once, whoever's child it was, and wherever it was."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fedsim.engine.vigil import Vigil


def seconds_until_lost(vigil: Vigil) -> float:
    begun = time.monotonic()
    while not vigil.lost and time.monotonic() - begun < 10:
        time.sleep(0.002)
    return time.monotonic() - begun


def test_a_process_that_dies() -> None:
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        vigil = Vigil({process.pid: "the sleeper"})
        time.sleep(0.05)
        assert vigil.lost == ""
        process.kill()
        assert seconds_until_lost(vigil) < 1
        assert vigil.lost == "the sleeper"
    assert Vigil({process.pid: "one that was gone before"}).lost == "one that was gone before"


def test_an_address_that_answers_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.engine.vigil._ASK_EVERY_S", 0.05)
    with socket.create_server(("127.0.0.1", 0)) as server:
        vigil = Vigil({}, (*server.getsockname(), "the head"))
        time.sleep(0.5)
        assert vigil.lost == ""
    assert seconds_until_lost(vigil) < 5
    assert vigil.lost == "the head"


def test_the_others_are_halted_until_the_end() -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        vigil = Vigil({one.pid: "the one", other.pid: "the other"}, halt="the one")
        one.kill()
        seconds_until_lost(vigil)
        assert vigil.lost == "the one"
        deadline = time.monotonic() + 10
        while Path(f"/proc/{other.pid}/stat").read_text().rpartition(")")[2].split()[0] != "T":
            assert time.monotonic() < deadline
        vigil.close()
        assert other.wait(10) == -signal.SIGKILL


def test_the_others_are_killed_at_the_end_although_one_of_them_died_at_the_same_time() -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as one,
        subprocess.Popen(["sleep", "60"]) as other,
        subprocess.Popen(["sleep", "60"]) as third,
    ):
        for process in (one, other):
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has died, and can still be watched
        vigil = Vigil({one.pid: "the one", other.pid: "the other", third.pid: "the third"}, halt="the one")
        seconds_until_lost(vigil)
        assert vigil.lost == "the one"
        vigil.close()
        assert third.wait(10) == -signal.SIGKILL
