"""The death of a process is noticed at once, for any parent and on any machine."""

import os
import signal
import socket
import subprocess
import sys
import time

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


def test_the_herald_is_killed_when_another_one_dies_and_only_then() -> None:
    with (
        subprocess.Popen(["sleep", "60"]) as one,
        subprocess.Popen(["sleep", "60"]) as herald,
        subprocess.Popen(["sleep", "60"]) as third,
    ):
        vigil = Vigil({one.pid: "the one", herald.pid: "the herald", third.pid: "the third"}, herald=herald.pid)
        time.sleep(0.05)
        assert herald.poll() is None
        one.kill()
        assert herald.wait(10) == -signal.SIGKILL
        seconds_until_lost(vigil)
        assert vigil.lost == "the one"
        assert third.poll() is None
        third.kill()


def test_of_several_that_die_at_once_the_first_is_named() -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as other:
        for process in (one, other):
            process.kill()
            os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it has died, and can still be watched
        vigil = Vigil({other.pid: "the other", one.pid: "the one"}, herald=one.pid)
        seconds_until_lost(vigil)
        assert vigil.lost == "the other"


def test_a_vigil_that_was_closed_kills_nobody() -> None:
    with subprocess.Popen(["sleep", "60"]) as one, subprocess.Popen(["sleep", "60"]) as herald:
        vigil = Vigil({one.pid: "the one", herald.pid: "the herald"}, herald=herald.pid)
        vigil.close()
        one.kill()
        seconds_until_lost(vigil)
        assert herald.poll() is None
        herald.kill()
