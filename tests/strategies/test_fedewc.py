"""FedEWC: the pull and the Fisher information."""

import numpy as np
import pytest
import torch

from fedsim.federated.staged import NEW
from strategies.fedewc import consolidation
from tests.strategies.small_runs import begin
from tests.strategies.staged_runs import STAGED


def test_the_pull_is_a_weighted_distance():
    w, anchor, fisher = ({"a": torch.tensor(v)} for v in ([1.0, 2.0], [0.0, 5.0], [4.0, 0.5]))
    assert float(consolidation(w, anchor, fisher)) == pytest.approx((4 * 1 + 0.5 * 9) / 2)


def test_fisher_information_is_the_mean_square_of_single_gradients():
    run = begin("fedewc", {**STAGED, "training.epochs": 1})
    run.advance(2)
    server, data = run.simulation.server, run.simulation.data
    state = server.split(run.tensors)
    rows = np.sort(data.at(2).indices)
    x, y = run.simulation.worker.train_set.batch(torch.from_numpy(rows), None)
    new = server.constants()[NEW]
    sums = {name: torch.zeros_like(value) for name, value in state.params.items()}
    for one, label in zip(x, y, strict=True):
        params = {name: value.clone().requires_grad_() for name, value in state.params.items()}
        logits = server.model.logits(params, state.buffers, one[None], train=False)[0, new]
        position = int(new[:label].sum())
        gradients = torch.autograd.grad(logits.log_softmax(0)[position], list(params.values()))
        for name, gradient in zip(params, gradients, strict=True):
            sums[name] += gradient**2
    for name, value in sums.items():
        torch.testing.assert_close(server.fisher[name], value / len(rows), rtol=1e-3, atol=1e-7)
