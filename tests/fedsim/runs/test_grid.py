import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.errors import FedsimError
from fedsim.runs.grid import cells, combinations, read_seeds, split_axes


@pytest.mark.parametrize(
    ("text", "seeds"), [("0-4", [0, 1, 2, 3, 4]), ("7", [7]), ("0-1,9", [0, 1, 9]), (" 3 , 1 ", [3, 1]), ("2-2", [2])]
)
def test_seeds(text: str, seeds: list[int]) -> None:
    assert read_seeds(text) == seeds


@pytest.mark.parametrize("text", ["", "a", "4-0", "-1", "0,,1", "0-99999999", "1.5"])
def test_bad_seeds_are_refused(text: str) -> None:
    with pytest.raises(FedsimError, match="must be numbers and ranges"):
        read_seeds(text)


def test_a_seed_is_named_once() -> None:
    with pytest.raises(FedsimError, match="twice"):
        read_seeds("0-3,2")


def test_lists_are_swept_and_what_holds_lists_is_swept_over_lists_of_them() -> None:
    given = {
        "strategy.name": "[fedavg, fedprox]", "training.lr": [0.1, 1], "rounds": 3, "data.csv.drop": ["a", "b"],
        "model.hidden": [[8], [8, 8]],
    }  # fmt: skip
    shared, axes = split_axes(given)
    assert shared == {"rounds": 3, "data.csv.drop": ["a", "b"]}
    assert axes == {"strategy.name": ["fedavg", "fedprox"], "training.lr": [0.1, 1], "model.hidden": [[8], [8, 8]]}


@pytest.mark.parametrize(
    ("key", "value", "told"),
    [("training.lr", [], "names no value"), ("training.lr", [0.1, 0.1], "a value twice"), ("seed", 3, "--seeds 0-4")],
)
def test_lists_that_cannot_be_swept_are_refused(key: str, value: object, told: str) -> None:
    with pytest.raises(FedsimError, match=told):
        split_axes({key: value})


def test_names_tell_what_sets_a_run_apart() -> None:
    axes = {"strategy.name": ["fedavg", "./own/mine.py"], "training.lr": [0.1, 0.01], "model.hidden": [[8, 4]]}
    found = cells(combinations(axes), [0, 5])
    assert [cell.name for cell in found[:3]] == [
        "fedavg-lr0.1-hidden8_4-seed0", "fedavg-lr0.01-hidden8_4-seed0", "mine-lr0.1-hidden8_4-seed0",
    ]  # fmt: skip
    assert found[-1].options == {
        "strategy.name": "./own/mine.py", "training.lr": 0.01, "model.hidden": [8, 4], "seed": 5,
    }  # fmt: skip
    assert [cell.options["seed"] for cell in found] == [0] * 4 + [5] * 4


@given(
    st.dictionaries(
        st.sampled_from(["strategy.name", "model.name", "training.lr", "strategy.lr", "data.partition.alpha"]),
        st.lists(
            st.text("aZ0-_./é ", max_size=4) | st.floats(allow_nan=False) | st.booleans(),
            min_size=1,
            max_size=3,
            unique=True,
        ),
        max_size=3,
    )
)
def test_names_are_different_and_are_names_of_folders(axes: dict[str, list[object]]) -> None:
    names = [cell.name for cell in cells(combinations(axes), [0, 1])]
    assert len(set(names)) == len(names)
    assert all(name[0].isalnum() and not set(name) - _ALLOWED for name in names)


_ALLOWED = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
