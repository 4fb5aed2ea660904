"""Class means are a linear classifier."""

import numpy as np
import torch

from strategies.class_means import nearest_mean
from tests.strategies.small_runs import begin, finished
from tests.strategies.staged_runs import STAGED


def test_the_nearest_mean_is_a_linear_classifier():
    rng = torch.Generator().manual_seed(0)
    sums, counts = torch.randn(4, 3, generator=rng), torch.tensor([2.0, 5.0, 0.0, 1.0])
    weight, bias = nearest_mean(sums, counts)
    f = torch.randn(50, 3, generator=rng)
    means = sums[[0, 1, 3]] / counts[[0, 1, 3], None]
    nearest = torch.tensor([0, 1, 3])[torch.cdist(f, means).argmin(1)]
    assert torch.equal((f @ weight.T + bias).argmax(1), nearest)


def test_class_means_are_those_of_all_samples_and_features_stay():
    run = finished("class_means", STAGED)
    data, server = run.simulation.data, run.simulation.server
    early = begin("class_means", STAGED)
    early.advance(2)
    for name, value in early.tensors.items():
        assert name.startswith("classifier.") or torch.equal(run.tensors[name], value)
    state = server.split(run.tensors)
    for c in range(10):
        rows = data.partition.indices[data.dataset.y_train[data.partition.indices] == c]
        x, _ = run.simulation.worker.train_set.batch(torch.from_numpy(np.sort(rows)), None)
        mean = server.model.features(state.params, state.buffers, x, train=False).mean(0)
        torch.testing.assert_close(run.tensors["classifier.weight"][c], mean, rtol=1e-4, atol=1e-5)
