"""The trees of procedural faces: the same from one seed, and in the order that the benchmark forgets by."""

from pathlib import Path

import pytest

from tests.scripts.load import script

tree = script("faces_tree")


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_one_seed_writes_one_tree(tmp_path: Path) -> None:
    cast = tree.Cast(train=2, unseen=1, test=1, images=2)
    for number, seed in enumerate((0, 0, 1)):
        tree.write_mufac(tmp_path / str(number), cast, seed, 16)
        tree.write_mucac(tmp_path / str(number), cast, 1, seed, 16)
    first, again, other = (files(tmp_path / str(number)) for number in range(3))
    assert first == again
    assert first != other


def test_rows_are_sorted_by_family_and_person(tmp_path: Path) -> None:
    folder = tree.write_mufac(tmp_path, tree.Cast(train=5, unseen=1, test=1, images=3, in_family=2), 0, 8)
    rows = [row.split(",") for row in (folder / "custom_train_dataset.csv").read_text().splitlines()[1:]]
    people = [tuple(row[:2]) for row in rows]
    assert len(rows) == 15
    assert people == sorted(people)
    assert [people.index(person) for person in dict.fromkeys(people)] == [0, 3, 6, 9, 12]


def test_a_real_cast_has_three_in_ten_never_seen() -> None:
    cast = tree.of_size(60)
    assert (cast.train, cast.unseen, cast.test) == (60, 18, 30)
    assert [list(who)[:1] for who in cast.people.values()] == [[0], [60], [78]]


def test_other_benchmarks_are_refused(tmp_path: Path) -> None:
    import typer

    with pytest.raises(typer.BadParameter):
        tree.main("mnist", tmp_path)
