import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data import (
    DataConfig,
    Partition,
    long_tail_counts,
    make_partition,
    matched_counts,
    matched_test,
    split_labels,
    split_test,
)
from fedsim.data.held_out import split_validation


@pytest.mark.parametrize(
    ("classes", "n_max", "factor", "clients", "total", "surplus"),
    [  # In one cell of one setting a client is due 105 of the 100 images of a class.
        (10, 5000, 0.02, 40, 9850, 0),
        (10, 5000, 0.01, 40, 9829, 0),
        (100, 500, 0.02, 20, 9261, 0),
        (100, 500, 0.01, 20, 9199, 5),
        (100, 500, 0.01, 40, 8636, 0),
    ],
)
def test_published_totals(classes, n_max, factor, clients, total, surplus):
    y = np.repeat(np.arange(classes), long_tail_counts(classes, n_max, factor))
    y_test = np.arange(10_000) % classes
    config = DataConfig(partition={"name": "multinomial", "alpha": 0.5, "seed": 3407}).partition
    partition = make_partition(config, y, clients, seed=0)
    assert matched_counts(partition, y, y_test).sum() == total
    test = matched_test(partition, y, y_test, seed=0)
    assert len(test.indices) == total - surplus
    expected = np.minimum(matched_counts(partition, y, y_test), 10_000 // classes)
    np.testing.assert_array_equal(test.label_counts(y_test, classes), expected)
    assert all(len(np.unique(rows)) == len(rows) for rows in test)


def test_counts_are_floored_shares_of_what_is_federated():
    y, y_test = np.array([0, 0, 0, 1, 1, 9]), np.arange(7) % 2
    partition = Partition.from_lists([[0, 3], [1, 2], []])  # four of six rows are federated
    # floor(n / 4 * 7): one sample is due 1 image, two are due 3.
    assert matched_counts(partition, y, y_test)[:, :2].tolist() == [[1, 1], [3, 0], [0, 0]]


def test_matched_clients_draw_on_their_own():
    y = y_test = np.arange(1000) % 2
    config = DataConfig(partition="iid").partition
    partition = make_partition(config, y, 4, 0)
    test = matched_test(partition, y, y_test, 5)
    # A client's draw depends on the seed, its number and its counts only, not on the other clients.
    alone = Partition.from_lists([partition[0], partition[2], partition[1], partition[3]])
    np.testing.assert_array_equal(matched_test(alone, y, y_test, 5)[0], test[0])
    assert not np.array_equal(matched_test(partition, y, y_test, 6)[0], test[0])
    twins = matched_test(Partition.from_lists([np.arange(500), np.arange(500, 1000)]), y, y_test, 5)
    assert twins.sizes.tolist() == [500, 500]
    assert not np.array_equal(twins[0], twins[1])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.floats(0.01, 0.99), st.integers(0, 1000))
def test_split_parts_each_client(sizes, fraction, seed):
    rows = np.random.default_rng(seed).permutation(sum(sizes)) + 100
    partition = Partition.from_lists(np.split(rows, np.cumsum(sizes)[:-1]))
    train, test = split_test(partition, fraction, seed)
    assert len(train) == len(test) == len(partition)
    for whole, kept, held in zip(partition, train, test, strict=True):
        assert sorted([*kept, *held]) == sorted(whole)
        assert len(held) == min(round(fraction * len(whole)), max(len(whole) - 1, 0))


def test_split_is_a_seeded_shuffle():
    partition = Partition.from_lists([np.arange(1000)])
    held = [split_test(partition, 0.5, seed)[1][0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(held[0], held[1])
    assert not np.array_equal(held[0], held[2])
    # Held-out rows lie all over: their mean is 499.5 with standard error 1000 / sqrt(12 * 500) / sqrt(2) = 9.
    assert abs(held[0].mean() - 499.5) < 5 * 9


@given(
    st.lists(st.integers(0, 12), min_size=1, max_size=8), st.floats(0.01, 1.0), st.integers(1, 4), st.integers(0, 1000)
)
def test_labels_are_split_within_each_client(sizes, fraction, least, seed):
    rows = np.random.default_rng(seed).permutation(sum(sizes)) + 100
    partition = Partition.from_lists(np.split(rows, np.cumsum(sizes)[:-1]))
    labelled, unlabelled = split_labels(partition, fraction, least, seed)
    for whole, known, hidden in zip(partition, labelled, unlabelled, strict=True):
        assert sorted([*known, *hidden]) == sorted(whole)
        assert len(known) == min(max(round(fraction * len(whole)), least), len(whole))
    if fraction == 1.0:
        np.testing.assert_array_equal(labelled.indices, partition.indices)


def test_labels_are_hidden_uniformly_and_by_the_seed():
    partition = Partition.from_lists([np.arange(1000), np.arange(1000, 2000)])
    known = [split_labels(partition, 0.2, 1, seed)[0] for seed in (0, 0, 1)]
    np.testing.assert_array_equal(known[0].indices, known[1].indices)
    assert not np.array_equal(known[0].indices, known[2].indices)
    assert not np.array_equal(known[0][0], known[0][1] - 1000)
    # The mean of 200 of the numbers 0 to 999 is 499.5 with standard error 1000 / sqrt(12 * 200) = 20.
    assert abs(known[0][0].mean() - 499.5) < 5 * 20


@given(st.lists(st.integers(0, 12), min_size=1, max_size=8), st.floats(0, 0.99), st.integers(0, 99))
def test_validation_is_a_share_of_each_client_apart_from_its_tests(sizes, fraction, seed):
    whole = Partition.from_lists(np.split(np.arange(sum(sizes)), np.cumsum(sizes)[:-1]))
    train, validation = split_validation(whole, fraction, seed)
    for mine, kept, held in zip(whole, train, validation, strict=True):
        assert sorted([*kept, *held]) == mine.tolist()
        assert len(held) == min(round(fraction * len(mine)), max(len(mine) - 1, 0))
    if len(whole.indices) > 40 and 0.2 < fraction < 0.8:
        assert validation.indices.tolist() != split_test(whole, fraction, seed)[1].indices.tolist()
