import gzip
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest

from fedsim.data import DataConfig, load_dataset
from fedsim.errors import FedsimError


def test_digits_are_split_the_same_for_every_seed():
    one, other = (load_dataset(DataConfig(), seed) for seed in (0, 1))
    np.testing.assert_array_equal(one.x_train, other.x_train)
    assert np.bincount(one.y_test).tolist() == [48] * 10
    assert len(one.y_train) == 1317
    assert one.x_train.shape[1:] == one.input_shape == (1, 8, 8)
    assert one.x_train.dtype == np.uint8
    assert one.x_train.max() == 255
    assert one.y_train.dtype == np.int64
    assert one.mean == pytest.approx((np.mean(one.x_train / 255),), abs=1e-7)
    assert one.std == pytest.approx((np.std(one.x_train / 255),), abs=1e-7)
    everything = np.concatenate([one.x_train, one.x_test]).reshape(1797, -1)
    assert len(np.unique(everything, axis=0)) == 1797  # no image is on both sides


def test_a_named_set_is_read_from_its_archive(tmp_path: Path, monkeypatch):
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (30, 32, 32, 3), dtype=np.uint8), np.arange(30) % 10
    np.savez(tmp_path / "cifar10.npz", x_train=images, y_train=labels, x_test=images, y_test=labels, more=np.eye(2))
    monkeypatch.setenv("FEDSIM_DATA", str(tmp_path))
    data = load_dataset(DataConfig(name="cifar10"), 0)
    np.testing.assert_array_equal(data.x_train, images.transpose(0, 3, 1, 2))
    assert data.x_train.flags.c_contiguous
    assert data.mean == (0.4914, 0.4822, 0.4465)
    assert data.class_names[3] == "cat"
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "cifar10.npz").write_bytes(b"no")
    with pytest.raises(FedsimError, match="elsewhere"):
        load_dataset(DataConfig(name="cifar10", root=tmp_path / "elsewhere"), 0)


def test_medmnist_is_read_by_name(tmp_path: Path):
    rng = np.random.default_rng(0)
    arrays = {f"{half}_images": rng.integers(0, 256, (12, 28, 28), dtype=np.uint8) for half in ("train", "val", "test")}
    labels = {f"{half}_labels": (np.arange(12) % 2).astype(np.uint8)[:, None] for half in ("train", "val", "test")}
    np.savez(tmp_path / "pneumoniamnist.npz", **arrays, **labels)
    data = load_dataset(DataConfig(name="pneumoniamnist", root=tmp_path), 0)
    np.testing.assert_array_equal(data.x_test[:, 0], arrays["test_images"])
    assert (data.name, data.num_classes, data.input_shape) == ("pneumoniamnist", 2, (1, 28, 28))
    with pytest.raises(FedsimError, match=r"curl -L -o .*breastmnist.npz https://") as caught:
        load_dataset(DataConfig(name="breastmnist", root=tmp_path), 0)
    assert "\n" not in str(caught.value)


def write_idx(path: Path, array) -> None:
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def test_torchvisions_layout_is_read(tmp_path: Path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (20, 28, 28), dtype=np.uint8), (np.arange(20) % 10).astype(np.uint8)
    for half in ("train", "t10k"):
        write_idx(raw / f"{half}-images-idx3-ubyte", images)
        write_idx(raw / f"{half}-labels-idx1-ubyte", labels)
    data = load_dataset(DataConfig(name="mnist", root=tmp_path), 0)
    np.testing.assert_array_equal(data.x_train, images[:, None])
    np.testing.assert_array_equal(data.y_test, labels)
    assert (data.name, data.num_classes, data.mean) == ("mnist", 10, (0.1307,))


@pytest.mark.parametrize("failure", [URLError("no\nroute"), RuntimeError("corrupt"), gzip.BadGzipFile("bad")])
def test_what_cannot_be_downloaded_is_one_line(tmp_path: Path, monkeypatch, failure):
    import torchvision

    def fail(*args, **kwargs):
        raise failure

    monkeypatch.setattr(torchvision.datasets, "CIFAR100", fail)
    with pytest.raises(FedsimError) as caught:
        load_dataset(DataConfig(name="cifar100", root=tmp_path), 0)
    text = str(caught.value)
    assert "\n" not in text
    assert str(tmp_path / "cifar100.npz") in text
    assert f"torchvision.datasets.CIFAR100('{tmp_path}', download=True)" in text


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    ours = load_dataset(DataConfig(), 0)
    theirs = load_digits()
    together = np.concatenate([ours.x_train, ours.x_test])[:, 0]
    labelled = sorted((x.tobytes(), int(y)) for x, y in zip(together, [*ours.y_train, *ours.y_test], strict=True))
    pixels = np.rint(theirs.images * (255 / 16)).astype(np.uint8)
    assert labelled == sorted((x.tobytes(), int(y)) for x, y in zip(pixels, theirs.target, strict=True))
