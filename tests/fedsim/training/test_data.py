"""Batches are the normalised rows of the training set; jobs have one or two streams."""

import numpy as np
import torch

from fedsim.federated.types import State
from fedsim.training.data import ClientJob, TrainingData, targets_on

MEAN, STD = torch.tensor([0.5]), torch.tensor([0.25])


def test_a_batch_is_rows_in_any_shape_of_index() -> None:
    images = torch.arange(4 * 9, dtype=torch.uint8).view(4, 1, 3, 3)
    data = TrainingData(images, torch.arange(4), MEAN, STD, "none", 1, torch.float64)
    index = torch.tensor([[2, 0], [1, 1]])
    x, y = data.batch(index, None)
    assert (x.shape, x.dtype) == ((2, 2, 1, 3, 3), torch.float64)
    torch.testing.assert_close(x, (images[index].double() / 255 - 0.5) / 0.25)
    assert torch.equal(y, index)


def test_numbers_take_the_format_of_the_batches_and_classes_stay_whole() -> None:
    device = torch.device("cpu")
    assert targets_on(device, np.array([1.5]), torch.float64).dtype == torch.float64
    assert targets_on(device, np.array([1]), torch.float64).dtype == torch.int64


def test_streams_of_a_job() -> None:
    job = ClientJob(3, np.array([0, 1]), State({}, {}), np.array([5]))
    assert job.stream("labelled").tolist() == [0, 1]
    assert job.stream("unlabelled").tolist() == [5]
    assert job.num_samples == 3
