"""`fedsim report`."""

import shutil
from pathlib import Path

from tests.tiny_runs import Cli


def test_a_report_of_two_runs(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    other = shutil.copytree(tiny_run, tmp_path / "other")
    outcome = cli("report", tiny_run, other, "--out", tmp_path / "both.html")
    assert outcome == (0, f"{tmp_path}/both.html\n", "")
    page = (tmp_path / "both.html").read_text()
    assert "2 runs compared" in page
    one = cli("report", tiny_run, "--out", tmp_path / "one.html")
    assert one.code == 0
    assert "global/accuracy" in (tmp_path / "one.html").read_text()
