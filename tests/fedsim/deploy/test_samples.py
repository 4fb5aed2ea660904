import runpy
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.data.datasets import Dataset
from fedsim.deploy.samples import Samples
from fedsim.errors import FedsimError

IMAGES = Samples(name="d", input_shape=(1, 4, 4), outputs=3, numbers=False, mean=(0.5,), std=(0.25,))
ROWS = Samples(
    name="t", input_shape=(2,), outputs=1, numbers=True, mean=(0.0, 0.0), std=(1.0, 1.0), centre=(1.0, 2.0),
    unit=(2.0, 4.0), target=(10.0, 5.0),
)  # fmt: skip


def test_a_node_has_its_own_samples_and_no_others() -> None:
    x, y = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4), np.array([0, 1, 2, 1, 1])
    data = IMAGES.node(1, 3, {"x": x, "y": y, "x_test": x[:2], "y_test": y[:2]})
    assert data.partition.sizes.tolist() == [0, 5, 0]
    assert data.client_test.sizes.tolist() == [0, 2, 0]
    assert data.dataset.x_train[data.partition[1]].tolist() == x[:, None].tolist()
    assert data.class_counts.tolist() == [1, 3, 1]


def test_rows_are_scaled_as_everybodys() -> None:
    data = ROWS.node(0, 2, {"x": [[3.0, 10.0]], "y": [25.0]})
    assert data.dataset.x_train.tolist() == [[1.0, 2.0]]
    assert data.dataset.y_train.tolist() == [3.0]


def test_the_server_knows_sizes_alone() -> None:
    data = IMAGES.server([7, 0, 5], {"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 1]})
    assert data.partition.sizes.tolist() == [7, 0, 5]
    assert len(data.dataset.x_train) == 3
    assert not data.dataset.x_train.any()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"x": np.zeros((2, 4, 4))}, "returns no 'y'"),
        ({"x": np.zeros((2, 4, 4)), "y": [0, 1]}, "must be uint8"),
        ({"x": np.zeros((2, 5, 4), np.uint8), "y": [0, 1]}, "do not fit"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 1, 2]}, "do not fit"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0, 3]}, "from 0 to 2"),
        ({"x": np.zeros((2, 4, 4), np.uint8), "y": [0.0, 1.0]}, "from 0 to 2"),
    ],
)
def test_other_samples_are_refused(given: dict[str, object], told: str) -> None:
    with pytest.raises(FedsimError, match=told):
        IMAGES.node(0, 1, given)  # type: ignore[arg-type]


def test_what_a_data_set_is_like_comes_back_from_its_file(tmp_path: Path) -> None:
    x, y = np.zeros((4, 1, 4, 4), np.uint8), np.array([0, 1, 2, 0])
    found = Samples.of(Dataset("d", x, y, x, y, 3, (0.5,), (0.25,)))
    assert found == IMAGES
    (tmp_path / "samples.json").write_text(found.model_dump_json())
    assert Samples.read(tmp_path / "samples.json") == found
    (tmp_path / "samples.json").write_text("{}")
    with pytest.raises(FedsimError, match="correct it, or write the app anew"):
        Samples.read(tmp_path / "samples.json")


def test_the_example_reads_archives_tables_and_folders_of_images(tmp_path: Path) -> None:
    source = tmp_path / "data.py"
    source.write_text(files("fedsim.deploy").joinpath("app/data.py.txt").read_text())
    example = runpy.run_path(str(source))
    (tmp_path / "own.csv").write_text("a,b,label\n1,2.5,0\n3,4,1\n")
    table = example["load"]({"data": str(tmp_path / "own.csv")})
    assert (table["x"].tolist(), table["y"].tolist()) == ([[1.0, 2.5], [3.0, 4.0]], [0, 1])
    for number, shade in enumerate((10, 200)):
        (tmp_path / "images" / str(number)).mkdir(parents=True)
        Image.fromarray(np.full((4, 4), shade, np.uint8)).save(tmp_path / "images" / str(number) / "one.png")
    images = example["load_test"]({"test-data": str(tmp_path / "images")})
    assert (images["x"][:, 0, 0].tolist(), images["y"].tolist()) == ([10, 200], [0, 1])
    np.savez(tmp_path / "own.npz", **images)
    again = example["load"]({"data": str(tmp_path / "own.npz")})
    assert IMAGES.node(0, 1, again).partition.sizes.tolist() == [2]
