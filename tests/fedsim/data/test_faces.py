"""MUFAC and MUCAC: what the scripts write is read as the real ones are, and every fault has one line."""

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from fedsim.data.config import DataConfig
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.data.federation import clients_by, federate
from fedsim.data.listing import TEST, TRAIN, UNSEEN
from fedsim.errors import FedsimError
from tests.scripts.load import script

SIZE = 32
tree = script("faces_tree")
CAST = tree.Cast(train=4, unseen=2, test=2, images=3, in_family=2)
MUFAC = "custom_korean_family_dataset_resolution_128"


@pytest.fixture(scope="module")
def trees(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("faces")
    tree.write_mufac(root / "mufac", CAST, seed=3, size=SIZE)
    assert tree.write_mucac(root / "mucac", CAST, forget=1, seed=3, size=SIZE) == (2, 3, 6)
    return root


def load(root: Path, name: str, **options: object) -> Dataset:
    config = {"name": name, "root": root, "folder": {"size": SIZE}, "mucac": {"thresholds": (2, 3, 6)}}
    return load_dataset(DataConfig.model_validate({**config, **options}), 0)


def test_mufac_is_read_as_it_was_drawn(trees: Path) -> None:
    got = load(trees / "mufac", "mufac")
    assert (got.num_classes, got.input_shape) == (8, (3, SIZE, SIZE))
    faces = {(p, n): script("faces").draw_face(3, n, p, SIZE) for p in range(8) for n in range(3)}
    for role in ("train", "unseen", "test"):
        x, y = (getattr(got, f"{array}_{role}") for array in "xy")
        drawn = [faces[p, n] for p in CAST.people[role] for n in range(3)]
        nearest = [int(np.abs(np.stack([f.pixels for f in drawn]).astype(int) - one).mean((1, 2, 3)).argmin())
                   for one in x.astype(int)]  # fmt: skip
        assert sorted(nearest) == list(range(len(drawn)))
        assert np.abs(np.stack([drawn[k].pixels for k in nearest]).astype(int) - x).mean() < 4  # JPEG of noisy pixels
        assert [drawn[k].age for k in nearest] == y.tolist()


def test_mufac_keeps_people_apart_and_the_order_of_its_rows(trees: Path) -> None:
    got = load(trees / "mufac", "mufac")
    people = [got.identity_train, got.identity_test, got.identity_unseen]
    assert [len(np.unique(who)) for who in people] == [4, 2, 2]
    assert len(np.unique(np.concatenate(people))) == 8
    rows = (trees / "mufac" / MUFAC / "custom_train_dataset.csv").read_text().splitlines()[1:]
    assert [f"{'abcdefgh'[age]}" for age in got.y_train] == [row.split(",")[2] for row in rows]
    families = got.columns["family_id"]
    assert [families.names[code] for code in families.codes] == [row[:5] for row in rows]  # type: ignore[index]
    config = DataConfig.model_validate({"partition": {"name": "natural", "by": "family_id"}})
    assert federate(config, 2, 0, got).partition.sizes.tolist() == [6, 6]
    assert clients_by(config, got) == "family_id"


def test_mucac_by_name_of_the_attributes(trees: Path, tmp_path: Path) -> None:
    got = load(trees / "mucac", "mucac", mucac={"thresholds": (2, 3, 6), "attribute": "Smiling"})
    drawn = [script("faces").draw_face(3, n, p, SIZE) for p in CAST.people["train"] for n in range(3)]
    assert got.y_train.tolist() == [int(face.smiles) for face in drawn]
    assert got.identity_train is not None
    assert got.identity_train.tolist() == [who for who in range(2, 6) for _ in range(3)]
    shutil.copytree(trees / "mucac", tmp_path / "mucac")
    file = tmp_path / "mucac" / "CelebA-HQ-attribute.txt"
    count, header, *rows = file.read_text().splitlines()
    order = np.random.default_rng(0).permutation(40)
    turned = [" ".join([row.split()[0], *np.array(row.split()[1:])[order]]) for row in rows]
    file.write_text("\n".join([count, " ".join(np.array(header.split())[order]), *turned]))
    again = load(tmp_path / "mucac", "mucac", mucac={"thresholds": (2, 3, 6), "attribute": "Smiling"})
    assert again.y_train.tolist() == got.y_train.tolist()
    assert [header.split().index(name) + 1 for name in ("Male", "Smiling", "Young")] == [21, 32, 40]


def test_people_can_be_shuffled(trees: Path) -> None:
    plain, shuffled = (
        load(trees / "mucac", "mucac", mucac={"thresholds": (2, 3, 6), "attribute": "Male", "shuffled": on})
        for on in (False, True)
    )
    assert len(shuffled.y_train) == len(plain.y_train)
    assert not np.array_equal(shuffled.x_train, plain.x_train)


def table(part: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / MUFAC / f"custom_{part}_dataset.csv"
        file.write_text(edit(file.read_text()))

    return change


def text(name: str, edit: Callable[[str], str]) -> Callable[[Path], None]:
    def change(root: Path) -> None:
        file = root / name
        file.write_text(edit(file.read_text()))

    return change


def first_row(new: Callable[[list[str]], list[str]]) -> Callable[[str], str]:
    def edit(content: str) -> str:
        header, first, *rest = content.splitlines()
        return "\n".join([header, ",".join(new(first.split(","))), *rest, ""])

    return edit


def one_image(root: Path, part: str = "train") -> Path:
    return sorted((root / MUFAC / f"{part}_images").iterdir())[0]


def into_two_roles(root: Path) -> None:
    """Add an image of a family to train on to those to test on."""
    name = one_image(root).name
    shutil.copy(one_image(root), root / MUFAC / "val_images" / name)
    row = next(line for line in (root / MUFAC / "custom_train_dataset.csv").read_text().splitlines() if name in line)
    table("val", lambda content: f"{content}{row}\n")(root)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: shutil.rmtree(root / MUFAC), r"mufac is not there; looked for .*_dataset.csv, .*_clean"),
        (lambda root: (root / MUFAC / "custom_val_dataset.csv").unlink(), r"looked for .*_val_dataset.csv; needs"),
        (lambda root: shutil.rmtree(root / MUFAC / "test_images"), r"looked for .*test_images; needs"),
        (table("train", lambda c: c.replace("age_class", "age")), r"csv: .*'age_class', which is no column"),
        (table("train", first_row(lambda r: [*r[:2], "x", r[3]])), r"csv, line 2: age_class is 'x'; must be a to h"),
        (table("train", first_row(lambda r: ["F0009", *r[1:]])), r"line 2: family_id is 'F0009', but the image"),
        (table("train", first_row(lambda r: [r[0], "GF", *r[2:]])), r"line 2: person_id is 'GF', but the image is"),
        (table("train", first_row(lambda r: [*r[:3], "a.jpg"])), r"line 2: image_path is 'a.jpg'; must be a file name"),
        (table("train", lambda c: c + c.splitlines()[1] + "\n"), r"line 14: .*jpg is there twice"),
        (lambda root: one_image(root).unlink(), r"1 of 24 images are missing: train_images/F0001"),
        (lambda root: one_image(root).write_bytes(b"no"), r"1 of 24 images cannot be decoded: train_images/F0001"),
        (lambda root: one_image(root).write_bytes(b""), r"cannot be decoded: train_images/F0001.* \(it is no image\)"),
        (lambda root: one_image(root).write_bytes(one_image(root).read_bytes()[:400]), r"decoded: .*runcated"),
        (into_two_roles, r"families are in both train and test: F0001"),
    ],
)  # fmt: skip
def test_faults_of_mufac(trees: Path, tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    shutil.copytree(trees / "mufac", tmp_path / "root", ignore=shutil.ignore_patterns(".fedsim"))
    change(tmp_path / "root")
    with pytest.raises(FedsimError, match=said) as told:
        load(tmp_path / "root", "mufac")
    assert "\n" not in str(told.value)


ATTRIBUTES, IDENTITY = "CelebA-HQ-attribute.txt", "CelebA-HQ-identity.txt"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda root: (root / IDENTITY).unlink(), r"mucac is not there; looked for .*, .*CelebAMask-HQ/CelebA"),
        (lambda root: shutil.rmtree(root / "CelebAMask-HQ"), r"looked for .*CelebAMask-HQ/CelebA-HQ-img"),
        (text(IDENTITY, lambda c: c.replace("0.jpg 0", "0.jpg zero", 1)), r"y.txt, line 1: '0.jpg zero' must be"),
        (text(IDENTITY, lambda c: c + "0.jpg 1\n"), r"line 25: 0.jpg is there twice"),
        (text(ATTRIBUTES, lambda c: c.replace("Male", "male")), r"attribute.txt, line 2: names no attribute Male"),
        (text(ATTRIBUTES, lambda c: c.replace(" -1", " 0")), r"line 3: \w+ is '0'; must be 1 or -1"),
        (text(ATTRIBUTES, lambda c: c.replace(" 1\n", "\n", 9)), r"line \d+: has 40 words"),
        (text(ATTRIBUTES, lambda c: c + c.splitlines()[2] + "\n"), r"line 27: 0.jpg is there twice"),
    ],
)  # fmt: skip
def test_faults_of_mucac(trees: Path, tmp_path: Path, change: Callable[[Path], None], said: str) -> None:
    shutil.copytree(trees / "mucac", tmp_path / "root", ignore=shutil.ignore_patterns(".fedsim"))
    change(tmp_path / "root")
    with pytest.raises(FedsimError, match=said) as told:
        load(tmp_path / "root", "mucac", mucac={"thresholds": (2, 3, 6), "attribute": "Male"})
    assert "\n" not in str(told.value)


def test_what_is_odd_is_said_and_refused_where_the_paper_is_expected(trees: Path, tmp_path: Path) -> None:
    shutil.copytree(trees, tmp_path / "all", ignore=shutil.ignore_patterns(".fedsim"))
    (tmp_path / "all" / "mufac" / MUFAC / "train_images" / "more.jpg").write_bytes(b"")
    got = load(tmp_path / "all" / "mufac", "mufac")
    assert got.reading is not None
    assert "1 images are in no table and left out" in got.reading
    with pytest.raises(FedsimError, match=r"has \(12, 6, 6\) images .* the paper's are \(10025, 1539, 1504\)"):
        load(tmp_path / "all" / "mufac", "mufac", mufac={"expect": "paper"})
    mucac = tmp_path / "all" / "mucac"
    text(ATTRIBUTES, lambda content: content.replace("24\n", "30\n", 1))(mucac)
    (mucac / "CelebAMask-HQ" / "CelebA-HQ-img" / "3.jpg").unlink()
    options = {"thresholds": (2, 3, 6), "attribute": "Male"}
    got = load(mucac, "mucac", mucac=options)
    assert got.reading is not None
    assert "line 1: says '30' rows, and there are 24" in got.reading
    assert "1 of 24 rows have no image" in got.reading
    with pytest.raises(FedsimError, match="says '30' rows"):
        load(mucac, "mucac", mucac={**options, "expect": "paper"})


def test_repeats_are_counted_and_left_out_if_asked(trees: Path, tmp_path: Path) -> None:
    shutil.copytree(trees / "mufac", tmp_path / "root", ignore=shutil.ignore_patterns(".fedsim"))
    images = sorted((tmp_path / "root" / MUFAC / "train_images").iterdir())
    shutil.copy(images[0], images[-1])
    plain = load(tmp_path / "root", "mufac")
    assert plain.reading is not None
    assert "1 image repeats an earlier one" in plain.reading
    clean = load(tmp_path / "root", "mufac", folder={"size": SIZE, "dedup": "exact"})
    assert (len(plain.y_train), len(clean.y_train)) == (12, 11)
    assert np.array_equal(clean.x_train, plain.x_train[:11])


def test_numbers_of_roles_and_default_thresholds() -> None:
    assert (TRAIN, TEST, UNSEEN) == (0, 1, 2)
    names = DataConfig.model_validate({"name": "mucac"})
    assert names.mucac.thresholds == (190, 1250, 4855)
