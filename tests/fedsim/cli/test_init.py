"""`fedsim init`."""

from pathlib import Path

from tests.tiny_runs import Cli


def test_init_writes_a_file_that_runs_and_no_second_one(tmp_path: Path, cli: Cli, no_pictures: None) -> None:
    file = tmp_path / "mine.yaml"
    assert cli("init", file, "--strategy=fedprox").out == f"{file}; to run it: fedsim run --config {file}\n"
    again = cli("init", file)
    assert (again.code, again.err) == (
        2, f"error: {file}: exists already; choose another file, or replace it with --force\n"
    )  # fmt: skip
    assert "mu: 0.01" in file.read_text()
    small = ["--clients=4", "--rounds=1", "--model=mlp", f"--out={tmp_path}", "--quiet"]
    assert cli("run", "--config", file, *small).code == 0
