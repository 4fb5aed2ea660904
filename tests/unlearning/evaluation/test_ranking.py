from unlearning.evaluation.ranking import rank


def test_places_and_ties():
    places = rank({"far": [9.0, 9.1, 9.2], "b": [1.0, 2.0, 3.0], "a": [1.5, 2.0, 2.5], "lost": [0.0, None]})
    assert [(p.method, p.place, p.as_good_as_first) for p in places] == [
        ("a", 1, True), ("b", 1, True), ("far", 3, False), ("lost", 4, False),
    ]  # fmt: skip
    assert rank({}) == []
