import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data import long_tail_counts, long_tail_indices, shot_groups
from fedsim.errors import FedsimError


@pytest.mark.parametrize(
    ("classes", "n_max", "factor", "total"),  # FedLoGe (arXiv:2401.08977), long-tailed CIFAR
    [(10, 5000, 0.02, 13_996), (10, 5000, 0.01, 12_406), (100, 500, 0.02, 12_608), (100, 500, 0.01, 10_847)],
)
def test_published_totals(classes, n_max, factor, total):
    assert long_tail_counts(classes, n_max, factor).sum() == total


def test_published_counts():
    expected = [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert long_tail_counts(10, 5000, 0.01).tolist() == expected


def test_exact_powers_are_not_floored_away():
    # In floating point 49 * (1 / 49) is 0.9999999999999999.
    assert long_tail_counts(2, 49, 1 / 49).tolist() == [49, 1]
    assert long_tail_counts(4, 1000, 0.001).tolist() == [1000, 100, 10, 1]
    assert long_tail_counts(1, 7, 0.5).tolist() == [7]


@pytest.mark.parametrize(
    ("classes", "n_max", "factor", "sizes"),
    # C10: sections 2 and 7a; C100 from training counts: section 5.
    [(10, 5000, 0.01, (3, 3, 4)), (10, 5000, 0.02, (4, 3, 3)), (100, 500, 0.01, (30, 31, 39))],
)
def test_published_shot_groups(classes, n_max, factor, sizes):
    groups = shot_groups(long_tail_counts(classes, n_max, factor))
    assert tuple(map(len, groups.values())) == sizes
    assert np.concatenate(list(groups.values())).tolist() == list(range(classes))


def test_a_share_met_exactly_closes_its_group():
    # Cumulative shares by falling count: 75 % (class 1), 95 % (class 2), 100 % (class 0).
    groups = shot_groups(np.array([5, 75, 20]))
    assert {name: group.tolist() for name, group in groups.items()} == {"many": [1], "medium": [2], "few": [0]}


@given(st.integers(0, 2**16), st.sampled_from([1.0, 0.5, 0.1]), st.sampled_from([None, 10, 30]))
def test_classes_keep_a_seeded_subset_of_the_promised_size(seed, factor, n_max):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), [40, 32, 31, 30, 35]))
    rows = long_tail_indices(y, 5, factor, n_max, seed)
    if factor == 1:
        expected = np.minimum([40, 32, 31, 30, 35], n_max or 1000)
    else:
        expected = long_tail_counts(5, n_max or 30, factor)
    np.testing.assert_array_equal(np.bincount(y[rows]), expected)
    assert (np.diff(rows) > 0).all()
    np.testing.assert_array_equal(rows, long_tail_indices(y, 5, factor, n_max, seed))


def test_a_smaller_tail_is_a_subset_and_another_seed_another_choice():
    y = np.arange(1000) % 10
    large, small = (long_tail_indices(y, 10, 0.5, n, 7) for n in (80, 20))
    assert set(small) < set(large)
    assert set(long_tail_indices(y, 10, 0.5, 80, 8)) != set(large)


@pytest.mark.parametrize(("n_max", "needle"), [(5, "leaves the last class none"), (60, "60 samples of class 0")])
def test_impossible_tails_are_refused(n_max, needle):
    with pytest.raises(FedsimError, match=needle):
        long_tail_indices(np.arange(100) % 2, 2, 0.1, n_max, 0)
