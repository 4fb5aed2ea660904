"""Outcomes have folders of their own, which no other process takes meanwhile."""

from pathlib import Path

import pytest

from fedsim.errors import FedsimError, InUse
from fedsim.runs.reserve import held
from unlearning.pipeline.places import held_run, reserved, scratch


def test_a_folder_without_a_name_is_numbered_past_those_that_are_taken(tmp_path: Path) -> None:
    with reserved(tmp_path, None, "finetune-client=2", force=False) as first:
        assert first == tmp_path / "finetune-client-2"
        with reserved(tmp_path, None, "finetune-client=2", force=False) as second:  # the first is held
            assert second == tmp_path / "finetune-client-2-2"
            second.mkdir()
    with reserved(tmp_path, None, "finetune-client=2", force=False) as again:
        assert again == first
        again.mkdir()
    with reserved(tmp_path, None, "finetune-client=2", force=False) as third:
        assert third == tmp_path / "finetune-client-2-3"


@pytest.mark.parametrize("name", ["oracles", "originals", "members", "../x", "a/b", ".hidden", ""])
def test_names_that_are_taken_or_lead_elsewhere_are_refused(name: str, tmp_path: Path) -> None:
    refused = pytest.raises(FedsimError, match=r"^--name .*and none of oracles, originals, members$")
    with refused, reserved(tmp_path, name, "x", force=True):
        pass


def test_an_outcome_is_replaced_by_force_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    with pytest.raises(FedsimError, match="exists already"), reserved(tmp_path, "mine", "x", force=False):
        pass
    with reserved(tmp_path, "mine", "x", force=True) as folder:
        assert folder == tmp_path / "mine"
        with pytest.raises(InUse), reserved(tmp_path, "mine", "x", force=True):
            pass


def test_temporary_files_are_gone_afterwards(tmp_path: Path) -> None:
    with scratch(tmp_path) as place:
        place.mkdir()
        (place / "file").touch()
        with scratch(tmp_path) as other:  # it removes what killed processes left, and not what is in use
            assert other != place
        assert (place / "file").exists()
    assert not place.exists()


def test_a_run_is_read_by_several_and_written_by_one(run: Path) -> None:
    with held_run(run, shared=True), held_run(run, shared=True), pytest.raises(InUse), held(run):
        pass
    with held_run(run, shared=False), pytest.raises(InUse), held_run(run, shared=True):
        pass
