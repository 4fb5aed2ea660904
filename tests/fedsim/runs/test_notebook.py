"""Progress in a notebook, and nowhere else."""

from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.config.resolve import resolve
from fedsim.runs.notebook import Notebook, in_notebook
from tests.tiny_runs import TINY


def test_progress_is_silent_where_nobody_looks(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, no_pictures: None
) -> None:
    assert not in_notebook()
    fedsim.run({**TINY, "rounds": 1}, overrides={"out": str(tmp_path)})
    assert capsys.readouterr() == ("", "")


def test_the_bar_of_a_notebook() -> None:
    pytest.importorskip("IPython")
    from IPython.core.interactiveshell import InteractiveShell
    from IPython.utils.capture import capture_output

    InteractiveShell.instance()
    try:
        with capture_output() as captured:
            bar = Notebook()
            bar.begin(resolve(TINY), {}, 0)
            bar.round_done(3, {"global/accuracy": 0.5})
            bar.warn("it <diverges>")
            bar.end()
    finally:
        InteractiveShell.clear_instance()
    pages = [output.data["text/html"] for output in captured.outputs]
    assert "<progress value=0 max=3>" in pages[0]
    assert "<progress value=3 max=3></progress> round 3/3&emsp;acc 0.5000" in pages[-1]
    assert "it &lt;diverges&gt;" in pages[-1]
    assert np.all([page.count("<progress") == 1 for page in pages])
