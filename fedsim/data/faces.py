"""MUFAC and MUCAC: faces of families and of celebrities, in the authors' folders (arXiv:2311.02240).

The files are named after their first use by the authors; here they are named by role. MUFAC's `val` files are the test
set. Its `test` files are the unseen people: attacks try to distinguish forgotten people from them. Nothing is
downloaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from fedsim.data.folder_config import MucacConfig, MufacConfig
from fedsim.data.listing import ROLES, TEST, TRAIN, UNSEEN, Listing, column_of, encoded, read_table, refuse
from fedsim.data.npz import Array
from fedsim.errors import FedsimError
from fedsim.randomness import generator
from fedsim.reading import read_regular

SIZE = 128
"""Side of the images that the authors train on, in pixels."""

AGES = ("0-6", "7-12", "13-19", "20-30", "31-45", "46-55", "56-66", "67-80")
"""Age ranges, in years, of MUFAC's classes a to h."""
ATTRIBUTES = ("Male", "Smiling", "Young")
"""MUCAC's labels, in the order of the label vector."""

_MUFAC_FOLDERS = (
    "",
    "custom_korean_family_dataset_resolution_128",
    "custom_korean_family_dataset_resolution_128_clean",
)
_MUFAC_FILES = ("train", "val", "test")  # one per role, in the order of ROLES
_MUFAC_NAME = re.compile(r"(F\d{4})_AGE_([A-Z]+\d?)_(\d{1,2})_([a-h])(\d+)\.jpg")
_MUFAC_COUNTS = (10_025, 1_539, 1_504)
_MUCAC_COUNTS = ((25_846, 2_053, 2_001), (25_933, 2_065, 2_002))  # counts in the authors' saved runs, and in their text
_MUCAC_TOKENS = 41


def list_mufac(root: Path, config: MufacConfig) -> Listing:
    """Return MUFAC's images. Classes are age groups; columns are `identity`, `family_id` and `person_id`.

    A person is a role within a family. Rows keep the order of the files; the paper forgets the first 1,500.

    Raises
    ------
    FedsimError
        If files are missing or malformed, or a family has images in two of the parts.
    """
    tried = [root / folder for folder in _MUFAC_FOLDERS]
    found = next((place for place in tried if (place / "custom_train_dataset.csv").is_file()), None)
    if found is None:
        raise _absent("mufac", [place / "custom_train_dataset.csv" for place in tried], _MUFAC_TREE)
    files: list[str] = []
    words: list[list[str]] = [[], [], []]  # family, person, age
    role: list[int] = []
    unlisted = 0
    for number, what in enumerate(_MUFAC_FILES):
        folders = _mufac_folders(found, what)
        there = {file.name: f"{folder}/{file.name}" for folder in folders for file in (found / folder).glob("*.jpg")}
        names = list(_mufac_rows(found / f"custom_{what}_dataset.csv", words))
        files += [there.get(name, f"{folders[0]}/{name}") for name in names]
        role += [number] * len(names)
        unlisted += len(there.keys() - set(names))
    families, people = np.array(words[0]), [f"{family}/{person}" for family, person in zip(*words[:2], strict=True)]
    _require_apart(found, families, np.array(role))
    notes = [f"{unlisted} images are in no table and left out"] if unlisted else []
    columns = {"identity": encoded(people), "family_id": encoded(words[0]), "person_id": encoded(words[1])}
    y = np.array([ord(age) - ord("a") for age in words[2]], np.int64)
    listing = Listing(found, tuple(files), np.array(role, np.int8), y, AGES, columns, tuple(notes))
    _require_counts(listing, config.expect, (_MUFAC_COUNTS,))
    return listing


_MUFAC_TREE = "custom_{train,val,test}_dataset.csv beside {train,val,test}_images/*.jpg"


def _mufac_folders(root: Path, what: str) -> list[str]:
    """Return the folders with the images of one part: one folder, or the several folders of copies on some hubs."""
    folders = [f"{what}_images", *(f"{what}_images_part{k}" for k in (1, 2))]
    there = [name for name in folders if (root / name).is_dir()]
    for need in (f"custom_{what}_dataset.csv", None if there else folders[0]):
        if need is not None and not (root / need).exists():
            raise _absent("mufac", [root / need], _MUFAC_TREE)
    return there


def _mufac_rows(file: Path, words: list[list[str]]) -> Iterator[str]:
    """Yield the image names of a table; append each image's family, person and age class to `words`."""
    table = read_table(file)
    for kind in ("image_path", "age_class"):
        column_of(table, file, "path", kind)
    given = [kind for kind in ("family_id", "person_id", "age_class") if kind in table]
    seen: set[str] = set()
    for line, name in enumerate(table["image_path"], start=2):
        row = {kind: table[kind][line - 2] for kind in given}
        age = row["age_class"]
        parsed = _MUFAC_NAME.fullmatch(name)
        if parsed is None:
            refuse(file, line, f"image_path is {name!r}; must be a file name such as F0001_AGE_D_18_a1.jpg")
        if name in seen:
            refuse(file, line, f"{name} is there twice; leave one of the rows out")
        seen.add(name)
        if not re.fullmatch("[a-h]", age):
            refuse(file, line, f"age_class is {age!r}; must be a to h")
        told = {"family_id": parsed[1], "person_id": parsed[2], "age_class": parsed[4]}
        for kind in given:
            if row[kind] != told[kind]:
                refuse(file, line, f"{kind} is {row[kind]!r}, but the image is called {name}")
        for column, word in zip(words, told.values(), strict=True):
            column.append(word)
        yield name


def _require_apart(root: Path, groups: Array, role: Array) -> None:
    for one, other in ((TRAIN, TEST), (TRAIN, UNSEEN), (TEST, UNSEEN)):
        if len(both := np.intersect1d(groups[role == one], groups[role == other])):
            raise FedsimError(
                f"{root}: families are in both {ROLES[one]} and {ROLES[other]}: {', '.join(both[:5])}; "
                "a person may have one role only"
            )


def list_mucac(root: Path, config: MucacConfig) -> Listing:
    """Return MUCAC's images, ordered by number, with the column `identity`; targets depend on `config.attribute`.

    They are the labels ATTRIBUTES, or the two classes of one attribute.

    Raises
    ------
    FedsimError
        If files are missing or malformed.
    """
    images = _first(root, ("CelebAMask-HQ/CelebA-HQ-img", "CelebA-HQ-img"))
    identity_file = _first(root, ("CelebA-HQ-identity.txt", "CelebAMask-HQ/CelebA-HQ-identity.txt"))
    named = ("CelebA-HQ-attribute.txt", "CelebAMask-HQ-attribute-anno.txt")
    attribute_file = _first(root, tuple(f"{at}{name}" for name in named for at in ("", "CelebAMask-HQ/")))
    people = _identities(identity_file)
    labels, notes = _attributes(attribute_file, config)
    there = [file.name for file in images.glob("*.jpg") if file.stem.isdecimal()]
    files = sorted((name for name in there if name in people and name in labels), key=lambda name: int(name[:-4]))
    if not files:
        raise FedsimError(f"{images}: no image there is in {identity_file} and {attribute_file}")
    if without := len(people.keys() - set(there)):
        notes.append(f"{without} of {len(people)} rows have no image and are left out")
    if unlisted := len(there) - len(files):
        notes.append(f"{unlisted} images have no identity or attributes and are left out")
    identity = np.array([people[name] for name in files], np.int64)
    if config.shuffled:
        known = np.unique(identity)
        identity = generator(0, "shuffled people").permutation(known)[np.searchsorted(known, identity)]
    low, _, high = config.thresholds
    role = np.where(identity < low, TEST, np.where(identity < high, TRAIN, UNSEEN)).astype(np.int8)
    y = np.array([labels[name] for name in files], np.uint8)
    names: tuple[str, ...] = ATTRIBUTES
    if config.attribute != "all":
        y, names = y[:, ATTRIBUTES.index(config.attribute)].astype(np.int64), ("no", config.attribute)
    base = images.relative_to(root).as_posix()
    columns = {"identity": encoded([str(number) for number in identity])}
    listing = Listing(root, tuple(f"{base}/{name}" for name in files), role, y, names, columns, tuple(notes))
    _require_counts(listing, config.expect, _MUCAC_COUNTS)
    return listing


_MUCAC_TREE = "CelebAMask-HQ/CelebA-HQ-img/*.jpg beside CelebA-HQ-identity.txt and CelebA-HQ-attribute.txt"


def _first(root: Path, places: Sequence[str]) -> Path:
    found = next((root / place for place in places if (root / place).exists()), None)
    if found is None:
        raise _absent("mucac", [root / place for place in places], _MUCAC_TREE)
    return found


def _lines(file: Path) -> list[str]:
    try:
        return read_regular(file).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FedsimError(f"{file}: cannot be read as text ({getattr(error, 'strerror', None) or error})") from None


def _identities(file: Path) -> dict[str, int]:
    people: dict[str, int] = {}
    for line, text in enumerate(_lines(file), start=1):
        if not (words := text.split()):
            continue
        if len(words) != 2 or not words[1].isdecimal():
            refuse(file, line, f"{text.strip()!r} must be a file name and the number of a person")
        if words[0] in people:
            refuse(file, line, f"{words[0]} is there twice; leave one of the rows out")
        people[words[0]] = int(words[1])
    return people


def _attributes(file: Path, config: MucacConfig) -> tuple[dict[str, list[int]], list[str]]:
    """Return {image: [Male, Smiling, Young]}, each 0 or 1, for any order of the columns; and notes about oddities."""
    lines = _lines(file)
    header = lines[1].split() if len(lines) > 1 else []
    if absent := [name for name in ATTRIBUTES if name not in header]:
        refuse(file, 2, f"names no attribute {absent[0]}; line 1 is a count, line 2 names the 40 attributes")
    places = [header.index(name) + 1 for name in ATTRIBUTES]
    labels: dict[str, list[int]] = {}
    for line, text in enumerate(lines[2:], start=3):
        if not (words := text.split()):
            continue
        if len(words) < _MUCAC_TOKENS:
            refuse(file, line, f"has {len(words)} words; needs a file name and 40 numbers")
        if words[0] in labels:
            refuse(file, line, f"{words[0]} is there twice; leave one of the rows out")
        for place in places:
            if words[place] not in ("1", "-1"):
                refuse(file, line, f"{header[place - 1]} is {words[place]!r}; must be 1 or -1")
        labels[words[0]] = [int(words[place] == "1") for place in places]
    if lines[0].strip() == str(len(labels)):
        return labels, []
    odd = f"{file}, line 1: says {lines[0].strip()!r} rows, and there are {len(labels)}"
    if config.expect == "paper":
        raise FedsimError(f"{odd}; leave out data.mucac.expect")
    return labels, [odd]


def _absent(name: str, tried: Sequence[Path], tree: str) -> FedsimError:
    return FedsimError(
        f"data.name: {name} is not there; looked for {', '.join(map(str, tried))}; needs {tree} in the folder of "
        "--data-root or FEDSIM_DATA; its authors hand the images out, nothing is downloaded"
    )


def _require_counts(listing: Listing, expect: Literal["any", "paper"], known: tuple[tuple[int, int, int], ...]) -> None:
    got = tuple(np.bincount(listing.role, minlength=3).tolist())
    if expect == "paper" and got not in known:
        raise FedsimError(
            f"{listing.root}: has {got} images to train and test on and never seen; the paper's are "
            f"{' or '.join(map(str, known))}; leave expect out to take them as they are"
        )
