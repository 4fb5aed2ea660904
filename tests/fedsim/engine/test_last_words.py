"""A process that is ended from outside, or by a library, leaves one line; one that ends by itself leaves none."""

import subprocess
import sys

import pytest

PROGRAM = """
import os, signal, sys
from fedsim.engine.last_words import LastWords
words = LastWords()
words.are("first")
words.are(sys.argv[1])
if sys.argv[2] == "close":
    words.close()
if sys.argv[2] == "killed":
    os.kill(os.getpid(), signal.SIGKILL)
os._exit(1)  # as Ray's core does
"""


@pytest.mark.parametrize(
    ("text", "end", "code", "told"),
    [
        ("Ray has died; to go on: fedsim", "exit", 1, "error: Ray has died; to go on: fedsim\n"),
        ("größer", "killed", -9, "error: größer\n"),
        ("", "exit", 1, ""),
        ("not said", "close", 1, ""),
    ],
)
def test_what_is_left_on_standard_error(text: str, end: str, code: int, told: str) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", PROGRAM, text, end], capture_output=True, encoding="utf-8", timeout=60
    )
    assert (done.returncode, done.stderr) == (code, told)
