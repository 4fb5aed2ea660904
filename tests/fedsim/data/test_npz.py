import contextlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import DataConfig, Dataset, load_dataset
from fedsim.errors import FedsimError

N = 20
GREY = np.random.default_rng(0).integers(0, 256, (N, 6, 5), dtype=np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (N, 6, 5, 3), dtype=np.uint8)
TABLE = np.random.default_rng(2).normal(size=(N, 4))
Y = np.arange(N) % 4


def load(path: Path, seed=0, test_fraction=0.4, **arrays) -> Dataset:
    np.savez(path / "data.npz", **arrays)
    return load_dataset(DataConfig(name=f"npz:{path / 'data.npz'}", test_fraction=test_fraction), seed)


def halves(x=GREY, y=Y, **more):
    return {"x_train": x, "y_train": y, "x_test": x, "y_test": y, **more}


@pytest.mark.parametrize(
    ("stored", "expected"),
    [
        (GREY, GREY[:, None]),
        (GREY[:, None], GREY[:, None]),
        (GREY[..., None], GREY[:, None]),
        (COLOUR, COLOUR.transpose(0, 3, 1, 2)),
        (COLOUR.transpose(0, 3, 1, 2), COLOUR.transpose(0, 3, 1, 2)),
        (TABLE, TABLE.astype(np.float32)),
        (TABLE.astype(np.float16), TABLE.astype(np.float16).astype(np.float32)),
    ],
)
def test_layouts(tmp_path, stored, expected):
    data = load(tmp_path, **halves(stored, Y.astype(np.uint8)[:, None]))
    centre, unit = data.input_scale or (0, 1)
    np.testing.assert_allclose(data.x_train * unit + centre, expected, rtol=1e-6, atol=1e-6)
    if expected.ndim == 4:
        np.testing.assert_array_equal(data.x_train, expected)
    assert data.x_train.dtype == expected.dtype
    assert data.x_train.flags.c_contiguous
    np.testing.assert_array_equal(data.y_test, Y)
    assert data.y_test.dtype == np.int64
    assert (data.num_classes, data.input_shape) == (4, expected.shape[1:])
    images = expected.ndim == 4
    axes, scaled = ((0, 2, 3), expected / 255) if images else (0, expected.astype(np.float64))
    mean, std = (data.mean, data.std) if images else data.input_scale
    np.testing.assert_allclose(mean, scaled.mean(axis=axes), rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(std, scaled.std(axis=axes), rtol=1e-5)
    if not images:  # tables have been centred
        assert (set(data.mean), set(data.std)) == ({0.0}, {1.0})


def test_constant_inputs_have_unit_deviation(tmp_path):
    assert load(tmp_path, **halves(np.zeros_like(GREY))).std == (1.0,)


def test_one_array_is_split_class_by_class_by_the_seed(tmp_path):
    people = np.arange(N) // 2
    one, other = (load(tmp_path, seed, x=GREY, y=Y, identity=people) for seed in (0, 1))
    assert np.bincount(one.y_test).tolist() == [2] * 4  # 40 % of 5
    assert not np.array_equal(one.x_test, other.x_test)
    again = {image.tobytes(): i for i, image in enumerate(GREY)}
    for x, y, identity in (
        (one.x_train, one.y_train, one.identity_train),
        (one.x_test, one.y_test, one.identity_test),
    ):
        rows = [again.pop(image[0].tobytes()) for image in x]  # pop: every image is on one side only
        np.testing.assert_array_equal(y, Y[rows])
        np.testing.assert_array_equal(identity, people[rows])
    assert not again


def test_a_class_keeps_a_training_sample(tmp_path):
    data = load(tmp_path, test_fraction=0.9, x=GREY, y=np.repeat([0, 1, 2], [1, 2, 17]))
    assert np.bincount(data.y_train).tolist() == [1, 1, 2]  # round(0.9 n) of n, but not all


def test_identities_stand_in_for_labels(tmp_path):
    data = load(tmp_path, x=GREY, identity=Y)
    assert data.num_classes == 4
    np.testing.assert_array_equal(data.identity_train, data.y_train)


def test_identities_of_given_halves(tmp_path):
    data = load(tmp_path, **halves(identity_train=Y + 5, identity_test=Y + 7))
    np.testing.assert_array_equal(data.identity_train, Y + 5)
    np.testing.assert_array_equal(data.identity_test, Y + 7)


def test_medmnist_names(tmp_path):
    train = {"train_images": GREY, "train_labels": Y[:, None]}
    val = {"val_images": GREY[:8], "val_labels": Y[:8, None]}
    test = {"test_images": GREY[:12], "test_labels": Y[:12, None]}
    data = load(tmp_path, **train, **val, **test)
    assert (len(data.y_train), len(data.y_test)) == (N, 12)
    assert len(load(tmp_path, **train, **val).y_test) == 8


BAD = {
    "lacks y_test": {"x_train": GREY, "y_train": Y, "x_test": GREY},
    "lacks test_images": {"train_images": GREY, "train_labels": Y},
    "lacks identity": {"x": GREY},
    "none of the keys": {"images": GREY},
    "integers of shape": halves(y=Y.astype(float)),
    r"integers of shape \(20,\)": halves(y=Y[:-1]),
    "y_train is bool": halves(y=Y > 1),
    r"y_train has shape .20, 2.; several labels of 20 samples are each 0 or 1": halves(y=np.stack([Y, Y], 1)),
    "-1..3": halves(y=np.where(Y == 0, -1, Y)),
    "without gaps": halves(y=Y * 2),
    "test label 4": halves() | {"y_test": Y + 1},
    "identity_train is float64": halves(identity_train=TABLE[:, 0]),
    "NaN": halves(np.where(TABLE > 1, np.nan, TABLE)),
    "infinite": halves(np.where(TABLE > 1, np.inf, TABLE)),
    "x_train is float64 of shape .20, 6, 5": halves(GREY / 255),
    "x_train is int64": halves(Y[:, None]),
    "x_train is uint8 of shape ..;": halves(np.uint8(1)),
    "1 or 3 channels": halves(np.zeros((N, 2, 6, 6), np.uint8)),
    "empty": halves(np.zeros((0, 6, 6), np.uint8), Y[:0]),
    "test inputs": halves() | {"x_test": GREY[:, :4]},
    "leaves no test samples": {"x": GREY[:4], "y": Y[:4]},
    "not a sound": halves(y=Y.astype(object)),
}


@pytest.mark.parametrize("needle", BAD)
def test_malformed_arrays_are_one_line_with_the_path(tmp_path, needle):
    with pytest.raises(FedsimError, match=needle) as caught:
        load(tmp_path, **BAD[needle])
    assert str(caught.value).startswith(str(tmp_path / "data.npz"))
    assert "\n" not in str(caught.value)


def test_files_that_are_no_archives(tmp_path):
    path = tmp_path / "data.npz"
    for write in (
        lambda: None,
        lambda: path.write_bytes(b""),
        lambda: path.write_text("not a zip"),
        lambda: (np.save(tmp_path / "x.npy", GREY), (tmp_path / "x.npy").rename(path)),
        lambda: (path.unlink(), path.mkdir()),
    ):
        write()
        with pytest.raises(FedsimError, match=str(path)):
            load_dataset(DataConfig(name=f"npz:{path}"), 0)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_archives_are_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "damaged.npz"
    save = np.savez if data.draw(st.booleans()) else np.savez_compressed
    save(path, **halves(GREY[:8], Y[:8]))
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))] if data.draw(st.booleans()) else content)
    with contextlib.suppress(FedsimError):  # and nothing else
        loaded = load_dataset(DataConfig(name=f"npz:{path}"), 0)
        assert len(loaded.x_train) == len(loaded.y_train)


def test_labels_that_are_one_hot_are_classes(tmp_path):
    for kind in (np.int64, np.float32):
        data = load(tmp_path, **halves(TABLE, np.eye(4, dtype=kind)[Y]))
        assert (data.num_classes, data.y_train.tolist()) == (4, Y.tolist())


@pytest.mark.parametrize(
    ("y", "told"),
    [
        (np.full(N, 3), "all training labels are 3, so there is one class only"),
        (np.full(N, 3.5), "all training targets are 3.5: there is nothing to learn"),
        (np.where(Y > 2, np.nan, Y), "finite numbers"),
    ],
)
def test_targets_that_teach_nothing(tmp_path, y, told):
    with pytest.raises(FedsimError, match=told):
        load(tmp_path, **halves(TABLE, y))


def test_nobody_is_told_to_load_unsafely(tmp_path):
    (tmp_path / "data.npz").write_bytes(b"\x80\x04K\x01.")
    with pytest.raises(FedsimError, match="it holds Python objects, or is something else") as caught:
        load_dataset(DataConfig(name=f"npz:{tmp_path / 'data.npz'}"), 0)
    assert "allow_pickle" not in str(caught.value)
