from pathlib import Path

import pytest

import fedsim
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger
from fedsim.privacy.show import format_epsilon
from fedsim.report.privacy import epsilon_of, privacy_section
from fedsim.runs.folder import RunFolder
from tests.tiny_runs import TINY


@pytest.mark.usefixtures("no_pictures")
def test_a_report_says_what_holds_and_what_is_not_covered(tmp_path: Path) -> None:
    private = {"client": {"noise_multiplier": 1.0, "sampling": "fixed"}}
    folder = fedsim.run(TINY, overrides={"out": str(tmp_path), "privacy": private}, progress=None).folder
    run = RunFolder.open(folder)
    (found, *_) = sorted(guarantees(Ledger.read(folder)), key=lambda guarantee: guarantee.epsilon)
    epsilon = epsilon_of(run)
    assert epsilon is not None
    assert epsilon[0] == format_epsilon(found.epsilon)
    assert epsilon[1].startswith(f"Epsilon of one client {found.adjacency}, delta 1e-05")
    section = privacy_section(run)
    assert section is not None
    assert section.rows[1][0] == "client"
    assert ("Not covered, for one client",) in section.rows


def test_a_run_without_privacy_says_so(tiny_run: Path, tmp_path: Path) -> None:
    run = RunFolder.open(tiny_run)
    assert epsilon_of(run) is None
    section = privacy_section(run)
    assert section is not None
    assert "Nothing is protected" in section.text
