"""Means over the samples of a batch, and values per client."""

import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.federated.types import Batch, Extras, State, per_client
from fedsim.models.objective import label_losses

MASK = torch.tensor([1.0, 1, 1, 1, 1, 0, 0])


def test_padding_of_a_batch_counts_nothing() -> None:
    draws = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(7, 3, generator=draws)
    labels = torch.randint(0, 2, (7, 3), generator=draws, dtype=torch.uint8)
    padded = Batch(torch.zeros(7, 1), labels, MASK).loss(logits)
    torch.testing.assert_close(padded, label_losses(logits, labels)[:5].mean())
    batch, values = Batch(torch.zeros(7, 1), labels, MASK), torch.arange(7.0)
    assert batch.mean(values) == 2
    assert batch.mean_of(values, values >= 3) == 3.5  # of 3 and 4, not of the padding 5 and 6
    assert batch.mean_of(values, values >= 5) == 0


def test_losses_of_classes_and_of_numbers_are_torchs() -> None:
    draws = torch.Generator().manual_seed(0)
    outputs, classes = torch.randn(7, 3, generator=draws), torch.arange(7) % 3
    batch = Batch(torch.zeros(7, 1), classes)
    torch.testing.assert_close(batch.loss(outputs), torch.nn.functional.cross_entropy(outputs, classes))
    numbers = Batch(torch.zeros(7, 1), outputs[:, 1])
    torch.testing.assert_close(numbers.loss(outputs), torch.nn.functional.mse_loss(outputs[:, 0], outputs[:, 1]))
    for bad in (numbers, Batch(torch.zeros(7, 1), torch.zeros(7, 3, dtype=torch.uint8))):
        with pytest.raises(FedsimError, match=r"^strategy.name: this method needs "):
            bad.cross_entropy(outputs)


def test_values_per_client_multiply_stacked_tensors() -> None:
    stacked = torch.ones(2, 3, 4)
    scaled = per_client(torch.tensor([2.0, 3.0]), stacked) * stacked
    assert scaled.sum((1, 2)).tolist() == [24, 36]
    start = {"w": torch.tensor([[1.0], [2.0]])}
    assert Extras(start, {}, stacked=True).of(1).start["w"].tolist() == [2]
    assert Extras(start, {}).of(1).start["w"].shape == (2, 1)
    assert State({"a": MASK}, {}).merged(State({"b": MASK}, {"c": MASK})).params.keys() == {"a", "b"}
