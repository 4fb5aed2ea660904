import pickle
import time

import numpy as np
import pytest

from fedsim.data import DataConfig, federate, long_tail_counts
from fedsim.errors import FedsimError


def test_rows_refer_to_the_whole_training_set():
    config = DataConfig(imbalance_factor=0.1, max_per_class=100, partition={"name": "pathological"})
    data = federate(config, 8, seed=3)
    y = data.dataset.y_train
    expected = long_tail_counts(10, 100, 0.1)
    np.testing.assert_array_equal(np.bincount(y[data.partition.indices]), data.class_counts)
    counts = data.partition.label_counts(y, 10)
    assert ((counts > 0).sum(axis=1) == 2).all()
    # Eight clients start at classes 0..7, so those are all there in full.
    np.testing.assert_array_equal(data.class_counts[:8], expected[:8])


def test_matched_client_tests_follow_the_clients_mix():
    data = federate(DataConfig(), 5, seed=0)
    assert data.client_test_source == "test"
    share = data.partition.label_counts(data.dataset.y_train, 10) / 1317 * 480
    drawn = data.client_test.label_counts(data.dataset.y_test, 10)
    np.testing.assert_array_equal(drawn, np.minimum(np.floor(share), 48))


def test_split_client_tests_are_taken_from_the_clients_data():
    whole = federate(DataConfig(), 10, seed=0)
    data = federate(DataConfig(client_test="split", client_test_fraction=0.25), 10, seed=0)
    assert data.client_test_source == "train"
    for before, train, test in zip(whole.partition, data.partition, data.client_test, strict=True):
        assert sorted([*train, *test]) == before.tolist()
    assert data.class_counts.sum() == data.partition.sizes.sum() == pytest.approx(0.75 * 1317, abs=10)


def test_the_same_seed_is_the_same_federation_and_pickles():
    one, again, other = (federate(DataConfig(imbalance_factor=0.5), 20, seed) for seed in (1, 1, 2))
    copy = pickle.loads(pickle.dumps(again))
    np.testing.assert_array_equal(one.partition.indices, copy.partition.indices)
    np.testing.assert_array_equal(one.client_test.indices, copy.client_test.indices)
    assert not np.array_equal(one.partition.indices, other.partition.indices)


def test_the_seed_of_the_data_is_its_own():
    one, other = (federate(DataConfig(seed=5, validation_fraction=0.2), 8, seed) for seed in (1, 2))
    assert one.content_hash == other.content_hash == federate(DataConfig(validation_fraction=0.2), 8, 5).content_hash
    assert one.content_hash != federate(DataConfig(seed=6, validation_fraction=0.2), 8, 1).content_hash
    plain = federate(DataConfig(), 8, 1)
    assert plain.content_hash == federate(DataConfig(validation_fraction=0.0, seed=None), 8, 1).content_hash


def test_what_clients_hold_out_is_nobodys_training_or_test_row_and_goes_with_its_client():
    config = DataConfig(client_test="split", validation_fraction=0.25, labelled_fraction=0.5)
    data = federate(config, 6, seed=0)
    assert data.validation is not None
    parts = (data.partition, data.unlabelled, data.client_test, data.validation)
    rows = np.concatenate([part.indices for part in parts])
    assert sorted(rows) == list(range(1317))
    left = data.without(data.partition[2])
    assert left.validation.sizes[2] == 0
    assert left.validation.sizes[1] == data.validation.sizes[1] > 0
    assert left.content_hash != data.content_hash
    assert not left.dataset.x_train[data.validation[2]].any()


def test_natural_clients_of_a_file(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (40, 8, 8), dtype=np.uint8)
    np.savez(tmp_path / "faces.npz", x=x, y=np.arange(40) % 2, identity=np.arange(40) // 4 * 10)
    config = DataConfig(name=f"npz:{tmp_path / 'faces.npz'}", partition="natural", max_per_class=14)
    with pytest.raises(FedsimError, match="here 10, got 11"):
        federate(config, 11, seed=0)
    data = federate(config, 10, seed=0)
    assert data.class_counts.tolist() == [14, 14]  # of 16
    people = [np.unique(data.dataset.identity_train[rows]).tolist() for rows in data.partition]
    assert people == [[10 * k] for k in range(10)]


def test_100_000_clients(tmp_path):
    y = np.arange(1_250_000) % 10
    np.savez(tmp_path / "big.npz", x=np.zeros((len(y), 1), np.float32), y=y)
    start = time.perf_counter()
    data = federate(DataConfig(name=f"npz:{tmp_path / 'big.npz'}", partition="iid"), 100_000, seed=0)
    assert time.perf_counter() - start < 20  # measured: 1 s
    assert (data.partition.sizes == 10).all()
    start = time.perf_counter()
    pickle.dumps(data.partition)
    assert time.perf_counter() - start < 1  # measured: 2 ms; two flat buffers


@pytest.mark.parametrize("client_test", ["matched", "split"])
def test_hidden_labels_take_samples_from_the_labelled_part_and_change_nothing_else(client_test):
    whole = federate(DataConfig(client_test=client_test), 10, seed=0)
    data = federate(DataConfig(client_test=client_test, labelled_fraction=0.1, labelled_min=3), 10, seed=0)
    assert not len(whole.unlabelled.indices)
    for before, known, hidden in zip(whole.partition, data.partition, data.unlabelled, strict=True):
        assert sorted([*known, *hidden]) == before.tolist()
        assert len(known) == max(round(0.1 * len(before)), 3)
    np.testing.assert_array_equal(data.client_test.indices, whole.client_test.indices)
    y = data.dataset.y_train
    np.testing.assert_array_equal(data.class_counts, np.bincount(y[data.partition.indices], minlength=10))
    assert (data.visible_labels[data.unlabelled.indices] == -1).all()
    others = np.setdiff1d(np.arange(len(y)), data.unlabelled.indices)
    np.testing.assert_array_equal(data.visible_labels[others], y[others])
    assert data.content_hash != whole.content_hash
