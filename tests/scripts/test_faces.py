"""The procedural faces: reproducible one by one, and a person says nothing about the label."""

import importlib.util
from pathlib import Path

import numpy as np
from scipy.stats import chi2_contingency

_SPEC = importlib.util.spec_from_file_location("faces", Path(__file__).parents[2] / "scripts" / "faces.py")
assert _SPEC is not None
assert _SPEC.loader is not None
faces = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(faces)


def test_an_image_depends_on_its_own_address_alone() -> None:
    x, age, person = faces.draw_faces(0, range(3), 4, 16)
    assert x.shape == (12, 3, 16, 16)
    assert x.dtype == np.uint8
    again, *labels = faces.draw_faces(0, range(2, 3), 2, 16)
    assert np.array_equal(again, x[8:10])
    assert [list(y) for y in labels] == [list(age[8:10]), [2, 2]]
    assert list(person) == sorted(person)
    assert not np.array_equal(again, faces.draw_faces(1, range(2, 3), 2, 16)[0])


def test_who_it_is_tells_nothing_about_the_age() -> None:
    for seed in range(3):
        _, age, person = faces.draw_faces(seed, range(20), 30, 4)
        table = np.histogram2d(person, age, bins=(20, 8))[0]
        assert chi2_contingency(table).pvalue > 0.001


def test_images_of_one_person_are_more_alike_than_those_of_two() -> None:
    """The middle of the face: skin and texture, no hair and little expression."""
    x, _, person = faces.draw_faces(0, range(8), 6, 32)
    middle = x[:, :, 14:20, 12:20].astype(float).reshape(len(x), -1)
    distance = np.linalg.norm(middle[:, None] - middle[None], axis=2)
    same = person[:, None] == person[None]
    np.fill_diagonal(same, False)
    assert distance[same].mean() < 0.8 * distance[person[:, None] != person[None]].mean()
