import numpy as np
import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.report.pictures import picture_plots
from fedsim.runs.folder import RunFolder
from fedsim.runs.pictures import PICTURES, read_pictures, write_pictures
from fedsim.runs.runner import run
from tests.strategies.small_runs import BASE, OWN


def test_images_come_back_by_title(tmp_path):
    pictures = {"Grey": torch.arange(32, dtype=torch.uint8).view(2, 1, 4, 4), "Colour": torch.ones(1, 3, 4, 4).byte()}
    write_pictures(tmp_path, pictures)
    read = read_pictures(tmp_path / PICTURES)
    assert list(read) == ["Grey", "Colour"]
    for title, images in pictures.items():
        np.testing.assert_array_equal(read[title], images.numpy())
    write_pictures(tmp_path / "none", {})
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("images", [np.zeros((2, 4, 4), np.uint8), np.zeros((1, 1, 4, 4)), np.array(["a"], object)])
def test_what_are_no_images_is_refused(tmp_path, images):
    np.savez(tmp_path / PICTURES, bad=images)
    with pytest.raises(FedsimError, match=r"pictures\.npz: .*; delete that file to go on without it"):
        read_pictures(tmp_path / PICTURES)


def test_a_run_keeps_and_draws_what_its_server_shows(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
    stages = {"rounds": 2, "name": "run", "out": str(tmp_path), "strategy.name": "target", "data.stages.count": 2}
    folder = run(BASE, overrides={**stages, **OWN["target"]}).folder
    opened = RunFolder.open(folder)
    (title,) = opened.pictures
    assert title == "Synthetic images of stage 2"
    (plot,) = picture_plots([opened])
    assert (plot.name, plot.title) == ("pictures_1", title)
    shown = plot.figure.axes[0].images[0].get_array()
    images = opened.pictures[title]
    side = images.shape[2] + 1
    for number, image in enumerate(images):
        row, column = divmod(number, 16)
        cell = shown[row * side : row * side + side - 1, column * side : column * side + side - 1]
        np.testing.assert_array_equal(cell, image[0])
    (folder / PICTURES).write_bytes(b"other")
    with pytest.raises(FedsimError, match="hash differs"):
        _ = RunFolder.open(folder).pictures
