"""Clients that differ in size alone."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from fedsim.data import PartitionConfig, make_partition
from fedsim.errors import FedsimError

LABELS = np.arange(600) % 10


def cut(name: str, clients: int, seed: int = 0, **options: float) -> np.ndarray:
    config = TypeAdapter(PartitionConfig).validate_python({"name": name, **options})
    partition = make_partition(config, LABELS, clients, seed)
    assert sorted(partition.indices) == list(range(600))
    return partition.sizes


@given(st.sampled_from(["linear", "square", "exponential", "quantity"]), st.integers(1, 60), st.integers(0, 99))
def test_every_row_has_one_owner_and_every_client_a_row(name: str, clients: int, seed: int) -> None:
    assert cut(name, clients, seed).min() >= 1


@pytest.mark.parametrize(("name", "power"), [("linear", 1), ("square", 2)])
def test_sizes_grow_as_they_are_called(name: str, power: int) -> None:
    wanted = np.arange(1, 5) ** power
    np.testing.assert_allclose(cut(name, 4), wanted / wanted.sum() * 596 + 1, atol=1)


def test_exponential_sizes() -> None:
    sizes = cut("exponential", 5)
    np.testing.assert_allclose(sizes[1:] / sizes[:-1], np.e, rtol=0.25)
    assert cut("exponential", 600).tolist() == [1] * 600


def test_quantity_skew_follows_alpha_and_mixes_classes() -> None:
    uneven, even = cut("quantity", 20, alpha=0.3), cut("quantity", 20, alpha=1000)
    assert uneven.std() > 5 * even.std()
    config = TypeAdapter(PartitionConfig).validate_python({"name": "quantity", "alpha": 0.5})
    partition = make_partition(config, LABELS, 4, 1)
    largest = int(partition.sizes.argmax())
    counts = partition.label_counts(LABELS, 10)[largest]
    assert counts.std() < 0.4 * counts.mean()


def test_too_few_samples_are_one_line() -> None:
    with pytest.raises(FedsimError, match="600 samples are too few for 7 of each of 100 clients"):
        cut("quantity", 100, min_samples=7)
