import contextlib
import gzip

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import DataConfig, federate, load_dataset
from fedsim.data.tabular import linear_truth
from fedsim.errors import FedsimError

TABLE = "size;colour;price\n1;red;10\n2;blue;20\n;red;30\n4;green;40\n5;red;50\n"


def load(path, text, seed=0, **options):
    path.write_text(text, encoding="utf-8")
    return load_dataset(DataConfig(name=f"csv:{path}", **options), seed)


def rows(data):
    """Return all inputs and targets in the table's own numbers, training rows first."""
    centre, unit = data.input_scale
    x = np.concatenate([data.x_train, data.x_test]).astype(np.float64) * unit + centre
    y = np.concatenate([data.y_train, data.y_test])
    return x, y if data.target_scale is None else y.astype(np.float64) * data.target_scale[1] + data.target_scale[0]


def test_a_table_of_numbers_and_words(tmp_path):
    data = load(tmp_path / "t.csv", TABLE, target_scale=(10, 5))
    x, y = rows(data)
    order = np.argsort(y)
    assert np.concatenate([data.y_train, data.y_test])[order].tolist() == [0, 2, 4, 6, 8]  # (price - 10) / 5
    # size with the median 3 of 1, 2, 4, 5 for the blank; then blue, green, red
    expected = [[1, 0, 0, 1], [2, 1, 0, 0], [3, 0, 0, 1], [4, 0, 1, 0], [5, 0, 0, 1]]
    np.testing.assert_allclose(x[order], expected, atol=1e-6)
    assert (len(data.x_test), data.num_classes, data.is_regression, data.input_shape) == (1, 1, True, (4,))
    assert (data.x_train.dtype, data.y_train.dtype) == (np.float32, np.float32)


def test_targets_are_scaled_by_the_training_rows_where_nothing_is_said(tmp_path):
    text = "x,y\n" + "".join(f"{i},{7 + 3 * i}\n" for i in range(50))
    data = load(tmp_path / "t.csv", text, test_fraction=0.4)
    assert data.y_train.mean() == pytest.approx(0, abs=1e-6)
    assert data.y_train.std() == pytest.approx(1, abs=1e-6)
    raw = np.sort(np.concatenate([data.y_train, data.y_test]))
    np.testing.assert_allclose(np.diff(raw), np.diff(raw)[0], rtol=1e-4)  # one scale for both halves


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_separators_gzip_and_words_as_classes(tmp_path, separator):
    text = TABLE.replace(";", separator)
    with gzip.open(tmp_path / "t.csv.gz", "wt") as file:
        file.write(text)
    data = load_dataset(DataConfig(name=f"csv:{tmp_path / 't.csv.gz'}", csv={"target": "colour", "drop": ["size"]}), 0)
    assert data.class_names == ("blue", "green", "red")
    x, y = rows(data)
    labels = dict(zip(np.rint(x[:, 0]).tolist(), y.tolist(), strict=True))
    assert labels == {10: 2, 20: 0, 30: 2, 40: 1, 50: 2}


def test_numbers_as_classes(tmp_path):
    text = "a,grade\n" + "".join(f"{i},{(3, 5, 9)[i % 3]}\n" for i in range(30))
    data = load(tmp_path / "t.csv", text, csv={"classes": True})
    assert (data.num_classes, data.class_names, data.is_regression) == (3, ("3", "5", "9"), False)
    assert np.bincount(data.y_test).tolist() == [2, 2, 2]  # the split goes class by class
    assert load(tmp_path / "t.csv", text).is_regression


def many(words):
    return "a,y\n" + "".join(f"w{i},{i}\n" for i in range(words))


BAD = {
    "no such file": (None, {}),
    "two rows": ("a,b\n1,2\n", {}),
    "row 2 has 3 values, the header 2": ("a,b\n1,2\n1,2,3\n", {}),
    "two columns are called 'a'": ("a,a,b\n1,2,3\n1,2,3\n", {}),
    "data.csv.target: .* no column 'pric'; did you mean 'price'": (TABLE, {"target": "pric"}),
    "data.csv.drop: .* no column 'x'": (TABLE, {"drop": ["x"]}),
    "no column besides the target": ("a,b\n1,2\n3,4\n", {"drop": ["a"]}),
    "'b' is blank in row 2": ("a,b\n1,2\n3,\n", {}),
    "no column besides the target 'y' that is not dropped or blank": (many(51), {}),
    "infinite": ("a,b\n1,2\n1e200,4\n2e200,4\n1,2\n", {}),
    "one class only": ("a,b\n1,2\n3,2\n", {"classes": True}),
    "a quotation mark in line 3 is never closed": ('a,b\n1,2\n"3,4', {}),
}


@pytest.mark.parametrize("needle", BAD)
def test_malformed_tables_are_one_line_with_the_path(tmp_path, needle):
    text, options = BAD[needle]
    path = tmp_path / "t.csv"
    if text is not None:
        path.write_text(text)
    with pytest.raises(FedsimError, match=needle) as caught:
        load_dataset(DataConfig(name=f"csv:{path}", csv=options, test_fraction=0.4), 0)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60) | st.text(alphabet='a1,;."\n- ', max_size=60).map(str.encode))
def test_any_bytes_are_a_table_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "any.csv"
    path.write_bytes(content)
    with contextlib.suppress(FedsimError):  # and nothing else
        data = load_dataset(DataConfig(name=f"csv:{path}"), 0)
        assert np.isfinite(data.x_train).all()
        assert len(data.x_train) == len(data.y_train)


@pytest.mark.parametrize(("name", "shape", "outputs"), [("diabetes", (442, 10), 1), ("breast_cancer", (569, 30), 2)])
def test_the_embedded_tables(name, shape, outputs):
    data = load_dataset(DataConfig(name=name), 0)
    assert (len(data.x_train) + len(data.x_test), *data.input_shape) == shape
    assert (data.num_classes, data.is_regression) == (outputs, outputs == 1)
    other = load_dataset(DataConfig(name=name), 1)
    assert not np.array_equal(data.x_test, other.x_test)  # the split is the run's


def test_the_linear_model_is_what_it_says():
    config = DataConfig(name="linear", linear={"d": 5, "n": 20_000, "sigma": 0.5, "n_test": 1000})
    data, theta = load_dataset(config, 3), linear_truth(config.linear, 3)
    assert np.linalg.norm(theta) == pytest.approx(1)
    fitted, *_ = np.linalg.lstsq(data.x_train, data.y_train, rcond=None)
    assert np.linalg.norm(fitted - theta) < 0.03  # 4 sigma sqrt(d / n)
    assert (data.y_train - data.x_train @ theta).std() == pytest.approx(0.5, rel=0.03)
    np.testing.assert_allclose(data.truth_test, data.x_test @ theta, atol=1e-5)
    assert (data.y_test - data.truth_test).std() == pytest.approx(0.5, rel=0.1)
    np.testing.assert_allclose(np.cov(data.x_train.T), np.eye(5), atol=0.05)
    assert (set(data.mean), set(data.std)) == ({0.0}, {1.0})  # so that a model's weights are theta's


@pytest.mark.parametrize("cut", ["dirichlet", "pathological", "shards", "multinomial"])
def test_what_splits_by_class_refuses_numbers(cut):
    with pytest.raises(FedsimError, match=f"data.partition: {cut} splits by class.*--partition iid"):
        federate(DataConfig(name="diabetes", partition=cut), 4, 0)


def test_a_long_tail_refuses_numbers():
    with pytest.raises(FedsimError, match=r"data\.imbalance_factor"):
        federate(DataConfig(name="diabetes", partition="iid", imbalance_factor=0.5), 4, 0)


def test_numbers_are_shared_out_evenly_and_tested_alike():
    data = federate(DataConfig(name="diabetes", partition="iid"), 4, 0)
    assert np.sort(data.partition.indices).tolist() == list(range(354))
    assert set(data.partition.sizes) <= {88, 89}
    assert (data.client_test.sizes > 15).all()
    assert data.class_counts.tolist() == [354]
    assert data.without(data.partition[0]).class_counts.tolist() == [354 - len(data.partition[0])]


def test_numbers_from_an_archive(tmp_path):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(5, 2, size=40)
    np.savez(tmp_path / "a.npz", x=x, y=y)
    data = load_dataset(DataConfig(name=f"npz:{tmp_path / 'a.npz'}", test_fraction=0.25, target_scale=(5, 2)), 0)
    assert (len(data.y_train), len(data.y_test), data.num_classes) == (30, 10, 1)
    got = np.sort(np.concatenate([data.y_train, data.y_test]))
    np.testing.assert_allclose(got, np.sort((y - 5) / 2), rtol=1e-5)
    np.savez(tmp_path / "a.npz", x=x, y=np.where(y > 5, np.nan, y))
    with pytest.raises(FedsimError, match=r"y has shape \(40,\); needs 40 finite numbers"):
        load_dataset(DataConfig(name=f"npz:{tmp_path / 'a.npz'}"), 0)


def test_hidden_numbers_are_not_numbers():
    data = federate(DataConfig(name="diabetes", partition="iid", labelled_fraction=0.5), 4, 0)
    hidden = data.unlabelled.indices
    assert 150 < len(hidden) < 200
    np.testing.assert_array_equal(np.flatnonzero(np.isnan(data.visible_labels)), np.sort(hidden))
    assert data.class_counts.tolist() == [354 - len(hidden)]
