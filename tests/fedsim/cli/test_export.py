"""What `fedsim export` refuses is one line, and no file."""

from __future__ import annotations

from pathlib import Path

from tests.tiny_runs import Cli


def test_bad_input_is_one_line(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    for arguments, says in (([tmp_path], "error: "), ([tiny_run, "--format=tflite"], "error: --format tflite")):
        done = cli("export", *arguments, f"--out={tmp_path / 'never'}")
        assert (done.code, done.err.count("\n"), done.err.startswith(says)) == (2, 1, True)
        assert not (tmp_path / "never").exists()
