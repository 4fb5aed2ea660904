"""Wrong labels and other looks at clients: as many as asked for, the same every time, and the test set untouched."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

import fedsim
from fedsim.config.resolve import resolve
from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.data.federation import federate
from fedsim.errors import FedsimError
from fedsim.runs.frozen import whole_data

CLIENTS = 5
DIGITS, TUMOURS = (load_dataset(DataConfig(name=name), 0) for name in ("digits", "breast_cancer"))


def changed(clients=CLIENTS, seed=0, dataset=DIGITS, **options):
    return federate(DataConfig(name=dataset.name, **options), clients, seed, dataset)


@settings(deadline=None, max_examples=10)
@given(st.tuples(st.floats(0, 0.99), st.floats(0, 0.99)).map(sorted), st.integers(0, 3))
def test_a_share_of_each_clients_labels_is_wrong_and_no_test_label(low_high, seed):
    low, high = low_high
    noisy, plain = changed(seed=seed, label_noise=[low, high]), changed(seed=seed)
    wrong = noisy.dataset.y_train != plain.dataset.y_train
    for client in range(CLIENTS):
        rows = noisy.partition[client]
        assert (rows == plain.partition[client]).all()
        assert round(low * len(rows)) <= wrong[rows].sum() <= round(high * len(rows))
    assert not wrong[np.setdiff1d(np.arange(len(wrong)), noisy.partition.indices)].any()
    assert set(noisy.dataset.y_train) <= set(range(10))
    assert noisy.dataset.y_test is DIGITS.y_test
    assert (noisy.client_test.indices == plain.client_test.indices).all()
    assert (noisy.dataset.columns["label_noise"].codes == wrong).all()
    assert (noisy.class_counts == np.bincount(noisy.dataset.y_train[noisy.partition.indices], minlength=10)).all()


def test_wrong_labels_are_spread_over_the_other_classes():
    noisy = changed(clients=1, partition="iid", label_noise=0.99)
    rows = noisy.partition.indices
    shift = (noisy.dataset.y_train[rows] - DIGITS.y_train[rows]) % 10
    counts = np.bincount(shift, minlength=10)
    assert counts[0] == len(rows) - round(0.99 * len(rows))
    assert counts[1:].min() > 0.7 * counts[1:].mean()


def test_what_clients_hold_out_keeps_its_labels_and_looks_as_their_own_samples_do():
    options = {"client_test": "split", "validation_fraction": 0.2}
    both = changed(label_noise=0.5, feature_shift={"brightness": 0.5}, **options)
    plain = changed(**options)
    held = np.concatenate([both.client_test.indices, both.validation.indices])
    assert (both.dataset.y_train[held] == plain.dataset.y_train[held]).all()
    assert (both.dataset.x_train[held] != plain.dataset.x_train[held]).any()


@settings(deadline=None, max_examples=10)
@given(st.floats(0, 1), st.floats(0, 0.9), st.integers(0, 3))
def test_brightness_and_contrast_are_one_affine_map_per_client(brightness, contrast, seed):
    shifted = changed(seed=seed, feature_shift={"brightness": brightness, "contrast": contrast})
    plain, dataset = changed(seed=seed), shifted.dataset
    assert dataset.x_test is DIGITS.x_test
    assert (shifted.partition.indices == plain.partition.indices).all()
    for client in range(CLIENTS):
        rows = shifted.partition[client]
        before, after = plain.dataset.x_train[rows].ravel() / 255, dataset.x_train[rows].ravel() / 255
        inside = (after > 0.01) & (after < 0.99)
        if len(np.unique(before[inside])) < 2:
            continue
        factor, offset = np.polyfit(before[inside], after[inside], 1)
        assert abs(factor - 1) <= contrast + 0.02
        assert abs(offset - (1 - factor) / 2) <= brightness + 0.02
        assert np.abs(factor * before + offset - after)[inside].max() < 0.01


def test_noise_grows_with_the_clients_number():
    shifted = changed(clients=4, partition="iid", dataset=TUMOURS, feature_shift={"noise": 2.0})
    plain = changed(clients=4, partition="iid", dataset=TUMOURS)
    for client in range(4):
        rows = shifted.partition[client]
        added = shifted.dataset.x_train[rows] - plain.dataset.x_train[rows]
        assert added.var() == pytest.approx(2.0 * (client + 1) / 4, rel=0.1)
    assert shifted.dataset.x_train.dtype == np.float32


def test_images_are_turned_by_one_of_the_angles():
    shifted = changed(clients=8, feature_shift={"rotation": [0, 90, 180, 270]})
    plain, turns = changed(clients=8), []
    for client in range(8):
        rows = shifted.partition[client]
        before, after = plain.dataset.x_train[rows], shifted.dataset.x_train[rows]
        turns += [k for k in range(4) if (np.rot90(before, k, (2, 3)) == after).all()]
    assert len(turns) == 8
    assert len(set(turns)) > 1
    slanted = changed(feature_shift={"rotation": 30}).dataset.x_train
    assert slanted.dtype == np.uint8
    assert (slanted != DIGITS.x_train).any()


def test_the_data_come_back_for_an_unlearned_run_and_another_seed_draws_others():
    drift = {"label_noise": 0.3, "feature_shift": {"noise": 0.1}}
    config = resolve({"strategy": "fedavg", "clients": CLIENTS, "data": drift})
    again, data = whole_data(config).dataset, federate(config.data, CLIENTS, 0)
    assert (again.x_train == data.dataset.x_train).all()
    assert (again.y_train == data.dataset.y_train).all()
    other = federate(config.data.model_copy(update={"seed": 5}), CLIENTS, 0).dataset
    assert (other.y_train != data.dataset.y_train).any()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_noise": [0.5, 0.1]}, "low must be at most high, got 0.5 and 0.1"),
        ({"label_noise": 1.5}, "less than 1"),
        ({"label_noise": 0.1, "canaries": {"mislabelled": 0.1}}, "label_noise: would change canaries"),
        ({"label_noise": 0.1, "stages": {"count": 2, "rounds": 1}}, "label_noise: would move samples to other stages"),
    ],
)
def test_impossible_noise_is_refused(options, message):
    with pytest.raises(ValidationError, match=message):
        DataConfig(**options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"name": "diabetes", "partition": "iid", "label_noise": 0.1},
            "data.label_noise: needs classes, and diabetes has numbers",
        ),
        (
            {"name": "breast_cancer", "feature_shift": {"rotation": 90}},
            "data.feature_shift: breast_cancer has no images",
        ),
        ({"name": "play", "feature_shift": {"noise": 0.1}}, "data.feature_shift: play is a text"),
    ],
)
def test_data_without_such_samples_are_refused_in_one_line(options, message):
    clients = 8 if options["name"] == "play" else 3
    with pytest.raises(FedsimError, match=rf"^{message}.*; leave it out\Z"):
        federate(DataConfig(**options), clients, 0)


def test_a_run_says_so_records_it_and_can_forget_the_wrong_labels(tmp_path, monkeypatch):
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
    run = fedsim.run(
        overrides={
            "clients": 4, "rounds": 1, "model.name": "logistic", "out": str(tmp_path), "name": "noisy",
            "data.label_noise": [0.1, 0.3], "data.feature_shift.contrast": 0.2, "training.vectorize": "never",
            "engine.name": "inprocess",
        },
        progress=False,
    )  # fmt: skip
    assert run.config.data.label_noise.high == 0.3
    told = (run.folder / "summary.json").read_text()
    assert "10% to 30% of each client's training labels are wrong" in told
    from fedsim.runs.frozen import run_data
    from unlearning.pipeline.forget import parse_forget

    data = run_data(run.folder, run.config)
    request = parse_forget("label_noise=wrong", data, 0)
    assert (data.dataset.y_train[request.rows] != DIGITS.y_train[request.rows]).all()
