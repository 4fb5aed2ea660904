"""Folders of images: by their classes, or by a table."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fedsim.data.folder_config import FolderConfig
from fedsim.data.listing import TEST, TRAIN, UNSEEN, Listing, encoded, list_folder
from fedsim.errors import FedsimError


def image(path: Path, value: int = 0) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 4), value, np.uint8)).save(path)


def listed(folder: Path, /, **options: object) -> Listing:
    return list_folder(folder, FolderConfig.model_validate(options))


def classes(root: Path, *folders: str, count: int = 4) -> None:
    for place, folder in enumerate(folders):
        for number in range(count):
            image(root / folder / f"{number}.png", 20 * place + number)


def test_a_folder_for_each_class(tmp_path: Path) -> None:
    classes(tmp_path, "dog", "cat")
    (tmp_path / "cat" / "notes.txt").write_text("no image")
    got = listed(tmp_path)
    assert got.label_names == ("cat", "dog")
    assert got.files[:2] == ("cat/0.png", "cat/1.png")
    assert got.y.tolist() == [0] * 4 + [1] * 4
    whole = got.complete(FolderConfig(), 0.25)
    assert np.bincount(whole.y[whole.part(TEST)]).tolist() == [1, 1]
    assert whole.part(TRAIN) == slice(0, 6)
    assert whole.complete(FolderConfig(), 0.5).files == whole.files  # what has a test set keeps it


def test_splits_in_folders_and_numbers_as_classes(tmp_path: Path) -> None:
    classes(tmp_path, *(f"{part}/{name}" for part in ("train", "val", "unseen") for name in ("2", "10")), count=2)
    got = listed(tmp_path).complete(FolderConfig(), 0.2)
    assert got.label_names == ("2", "10")
    assert [got.part(role).stop - got.part(role).start for role in (TRAIN, TEST, UNSEEN)] == [4, 4, 4]
    classes(tmp_path, "test/2", count=1)
    assert len(listed(tmp_path).complete(FolderConfig(), 0.2).files) == 9  # val is left out where there is a test set


TABLE = "file_name,label,person,split,site\na/0.png,x,ann,train,1\na/1.png,y,bob,train,2\na/2.png,x,cy,test,1\n"


def tabled(root: Path, text: str = TABLE, name: str = "metadata.csv") -> Path:
    classes(root, "a", count=3)
    (root / name).write_text(text, encoding="utf-8")
    return root


def test_a_table_with_people_splits_and_other_columns(tmp_path: Path) -> None:
    got = listed(tabled(tmp_path))
    assert got.files == ("a/0.png", "a/1.png", "a/2.png")
    assert got.role.tolist() == [TRAIN, TRAIN, TEST]
    assert got.label_names == ("x", "y")
    assert got.columns["identity"].names == ("ann", "bob", "cy")
    assert got.columns["site"].codes.tolist() == [1, 2, 1]
    assert set(got.columns) == {"identity", "site"}
    assert listed(tmp_path / "metadata.csv").files == got.files


def test_columns_are_named_and_several_labels_are_flags(tmp_path: Path) -> None:
    text = "img,smiles,old\na/0.png,1,-1\na/1.png,0,1\n"
    got = listed(tabled(tmp_path, text, "mine.csv"), table="mine.csv", path="img", label=("smiles", "old"))
    assert got.y.tolist() == [[1, 0], [0, 1]]
    assert got.y.dtype == np.uint8
    assert got.label_names == ("smiles", "old")


def test_parquet(tmp_path: Path) -> None:
    import pandas as pd

    classes(tmp_path, "a", count=2)
    pd.DataFrame({"path": ["a/0.png", "a/1.png"], "label": [3, 7]}).to_parquet(tmp_path / "labels.parquet")
    got = listed(tmp_path)
    assert (got.label_names, got.y.tolist()) == (("3", "7"), [0, 1])


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        (TABLE, {"label": "lable"}, r"metadata.csv: data.folder.label is 'lable', which is no column; .*label"),
        ("x,y\n1,2\n", {}, r"which column is the path\? it has x, y; name one with data.folder.path"),
        ("path,z\na/0.png,2\n", {}, r"which column is the label\?"),
        ("path,label\n", {}, r"has no rows"),
        ("path,label\na/0.png,x\na/0.png,y\n", {}, r"line 3: a/0.png is there twice"),
        ("path,label\n../0.png,x\n", {}, r"line 2: ../0.png is outside of the folder"),
        ("path,label\n/etc/passwd,x\n", {}, r"line 2: /etc/passwd is outside of the folder"),
        ("path,label\n,x\n", {}, r"line 2: names no image"),
        ("path,label,split\na/0.png,x,often\n", {}, r"line 2: split is 'often'; must be train, test, val or unseen"),
        ("path,label\na/0.png,x\na/1.png,x\n", {}, r"all images are of one class, 'x'"),
        ("path,label,split\na/0.png,x,train\na/1.png,y,test\na/2.png,x,train\n", {}, r"no training image is of .*'y'"),
        ("path,u,v\na/0.png,1,2\n", {"label": ("u", "v")}, r"line 2: v is '2'; a label among several is 0 or 1"),
        ('path,label\n"a/0.png,x\n', {}, r"not a sound table"),
        (TABLE, {"table": "no.csv"}, r"no.csv: no such table"),
    ],
)
def test_malformed_tables(tmp_path: Path, text: str, options: dict[str, object], said: str) -> None:
    with pytest.raises(FedsimError, match=said) as told:
        listed(tabled(tmp_path, text), **options)
    assert "\n" not in str(told.value)


def test_malformed_folders(tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match="no such folder"):
        listed(tmp_path / "no")
    with pytest.raises(FedsimError, match="holds no image in a folder of its class"):
        listed(tmp_path)
    classes(tmp_path, "train/x", "y", count=1)
    with pytest.raises(FedsimError, match=r"folders that are splits \(train\) and others \(y\)"):
        listed(tmp_path)


def test_missing_images_are_named_or_left_out(tmp_path: Path) -> None:
    got = listed(tabled(tmp_path, "path,label\na/0.png,x\na/1.png,y\na/8.png,x\na/2.png,x\na/9.png,y\n"))
    with pytest.raises(FedsimError, match=r"2 of 5 images are missing: a/8.png, a/9.png"):
        got.complete(FolderConfig(), 0.5)
    assert len(got.complete(FolderConfig(missing="drop"), 0.5).files) == 3
    (tmp_path / "a" / "2.png").unlink()
    with pytest.raises(FedsimError, match="no image is left to test on"):
        got.complete(FolderConfig(missing="drop"), 0.5)


def test_whole_numbers_stay_and_words_are_numbered() -> None:
    assert encoded(["7", "0"]) == (pytest.approx(np.array([7, 0])), None)
    codes, names = encoded(["b", "a", "b", "3"])
    assert (codes.tolist(), names) == ([2, 1, 2, 0], ("3", "a", "b"))
