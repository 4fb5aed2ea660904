"""Data that have been moved are found."""

import pytest

import fedsim
from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.runs.runner import resume
from unlearning.pipeline.source import open_source


@pytest.fixture
def moved(tmp_path):
    """Return a stopped run and the folder that its table was moved to."""
    (tmp_path / "here").mkdir()
    text = "a,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(60))
    (tmp_path / "here" / "t.csv").write_text(text)
    settings = {"data.name": f"csv:{tmp_path / 'here' / 't.csv'}", "clients": 3, "rounds": 2, "out": str(tmp_path)}
    folder = fedsim.run({}, overrides=settings).folder
    (tmp_path / "here").rename(tmp_path / "there")
    return folder, tmp_path / "there"


def test_a_run_finds_its_data_where_they_have_been_moved(moved):
    folder, there = moved
    with pytest.raises(FedsimError, match="no such file"):
        open_source(folder)
    assert open_source(folder, {"data.root": str(there)}).data.dataset.input_names == ("a",)
    assert resume(folder, overrides={"data.root": str(there)}).folder == folder
    with pytest.raises(FedsimError, match=r"--data-root .*: holds no t\.csv"):
        open_source(folder, {"data.root": str(there.parent)})
    (there / "t.csv").write_text("a,y\n" + "".join(f"{i},{'ab'[i % 2]}\n" for i in range(1, 61)))
    with pytest.raises(FedsimError, match="its hash differs"):
        open_source(folder, {"data.root": str(there)})


def test_a_relative_path_is_kept_whole(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "t.csv").write_text("a,y\n1,2\n")
    config = resolve({"data.name": "csv:t.csv", "data.root": "there", "data.csv.test": "t.csv"})
    assert config.data.name == f"csv:{tmp_path / 't.csv'}"
    assert (str(config.data.root), config.data.csv.test) == (str(tmp_path / "there"), str(tmp_path / "t.csv"))
