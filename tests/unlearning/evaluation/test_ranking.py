from unlearning.evaluation.ranking import places


def test_differences_within_the_floor_are_ties() -> None:
    found = places({"far": 9.0, "b": 1.9, "a": 0.5, "next": 3.0, "near": 4.5, "lost": None, "gone": None}, floor=2.0)
    assert found == {"a": 1, "b": 1, "next": 3, "near": 3, "far": 5, "lost": 6, "gone": 6}
    assert places({}, 1.0) == {}


def test_without_a_floor_only_equals_share_a_place() -> None:
    assert places({"a": 0.5, "b": 0.5, "c": 0.6}, floor=0.0) == {"a": 1, "b": 1, "c": 3}
