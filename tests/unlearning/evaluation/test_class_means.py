"""The nearest-class-mean probe against a loop, and what it sees through."""

import numpy as np

from unlearning.evaluation.class_means import probe


def test_like_a_loop() -> None:
    rng = np.random.default_rng(0)
    forget, retain, unseen = ((rng.normal(size=(n, 5)), rng.integers(0, 3, n)) for n in (20, 40, 30))
    means = [retain[0][retain[1] == c].mean(0) for c in range(3)]
    for (e, y), found in zip((forget, unseen), vars(probe(forget, retain, unseen)).values(), strict=True):
        answers = [int(np.argmin([np.sum((row - mean) ** 2) for mean in means])) for row in e]
        assert found == np.mean(np.array(answers) == y)


def test_a_class_that_only_the_head_has_lost_is_found() -> None:
    """Features that keep three classes apart: the lost one too, from half of its samples."""
    rng = np.random.default_rng(1)
    y = np.repeat([0, 1, 2], 20)
    e = np.eye(3)[y] * 9 + rng.normal(size=(60, 3))
    lost = y == 2
    found = probe((e[lost], y[lost]), (e[~lost], y[~lost]), (e[lost], y[lost]))
    assert found.forget == found.unseen == 1.0
