"""Hugging Face data sets from local folders: the columns are found, and what was found is said."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.data import DataConfig, federate
from fedsim.data.datasets import load_dataset
from fedsim.errors import FedsimError
from tests.tiny_runs import Cli

datasets = pytest.importorskip("datasets")
pytestmark = pytest.mark.filterwarnings("ignore")  # of pyarrow and multiprocess


def images(folder: Path, rows: int = 40, *, side: int = 8) -> np.ndarray:
    """Write grey images of two classes by four writers, as train and test; returns the training pixels."""
    rng = np.random.default_rng(0)
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["cat", "dog"]),
            "writer_id": datasets.Value("string"),
        }
    )
    pixels = {}
    for part, n in (("train", rows), ("test", rows // 2)):
        x = rng.integers(0, 256, (n, side, side), dtype=np.uint8)
        table = {"image": list(x), "label": [i % 2 for i in range(n)], "writer_id": [f"w{i % 4}" for i in range(n)]}
        folder.mkdir(exist_ok=True)
        datasets.Dataset.from_dict(table, features=features).to_parquet(folder / f"{part}-00000.parquet")
        pixels[part] = x
    return pixels["train"]


def test_images_with_writers(tmp_path: Path) -> None:
    pixels = images(tmp_path / "faces")
    data = federate(DataConfig(name=f"hf:{tmp_path / 'faces'}", partition="natural"), 4, 0)
    dataset = data.dataset
    np.testing.assert_array_equal(dataset.x_train[:, 0], pixels)
    assert (dataset.class_names, len(dataset.y_test)) == (("cat", "dog"), 20)
    assert dataset.reading == (
        "images: image; label: label, 2 classes; writer_id: 4 identities, for --partition natural; "
        "40 training and 20 test samples"
    )
    assert data.partition[1].tolist() == list(range(1, 40, 4))
    assert dataset.identity_name == "writer_id"


def test_tables_of_words_and_numbers(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.standard_normal((60, 3))
    rows = {
        "a": x[:, 0].tolist(),
        "b": x[:, 1:].tolist(),
        "note": ["n"] * 60,
        "class": ["yes" if r[0] > 0 else "no" for r in x],
    }
    (tmp_path / "t").mkdir()
    datasets.Dataset.from_dict(rows).to_parquet(tmp_path / "t" / "data.parquet")
    dataset = load_dataset(DataConfig(name=f"hf:{tmp_path / 't'}"), 0)
    assert dataset.input_shape == (3,)
    assert dataset.class_names == ("no", "yes")
    assert dataset.reading is not None
    assert dataset.reading.endswith("48 training and 12 test samples, split from one part")
    centre, unit = map(np.asarray, dataset.input_scale)
    raw = dataset.x_train * unit + centre
    assert {tuple(row) for row in raw.round(4)} <= {tuple(row) for row in x.round(4)}
    np.testing.assert_array_equal(dataset.y_train, raw[:, 0] > 0)
    numbers = load_dataset(DataConfig(name=f"hf:{tmp_path / 't'}", hf={"label": "a", "inputs": "b"}), 0)
    assert (numbers.is_regression, numbers.input_shape) == (True, (2,))


def test_a_run_from_a_saved_folder(tmp_path: Path, cli: Cli, no_pictures: None) -> None:
    images(tmp_path / "faces")
    loaded = datasets.load_dataset("parquet", data_files={"train": str(tmp_path / "faces" / "train-00000.parquet")},
                                   cache_dir=str(tmp_path / "cache"))  # fmt: skip
    loaded.save_to_disk(tmp_path / "saved")
    done = cli(
        "run",
        f"--dataset=hf:{tmp_path / 'saved'}",
        "--partition=natural",
        "--rounds=1",
        "--model=mlp",
        f"--out={tmp_path}",
    )
    assert (done.code, done.err) == (0, "")
    assert "writer_id: 4 identities" in done.out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"hf": {"label": "lable"}}, "data.hf.label: no column 'lable'; did you mean 'label'"),
        ({"hf": {"client": "who"}}, "data.hf.client: no column 'who'"),
        ({"name": "hf:EMPTY"}, "holds no parquet file"),
    ],
)
def test_what_cannot_be_read_is_one_line(options: dict[str, object], says: str, tmp_path: Path) -> None:
    images(tmp_path / "faces")
    (tmp_path / "empty").mkdir()
    name = str(options.pop("name", f"hf:{tmp_path / 'faces'}")).replace("EMPTY", str(tmp_path / "empty"))
    with pytest.raises(FedsimError, match=says):
        load_dataset(DataConfig(name=name, **options), 0)  # type: ignore[arg-type]
