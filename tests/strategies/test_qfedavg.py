"""q-FedAvg against its formula (arXiv:1905.10497, algorithm 2); what all methods keep is in test_contract.py."""

import numpy as np
import pytest
import torch

from fedsim.data.transforms import normalize
from fedsim.errors import FedsimError
from tests.strategies.small_runs import begin, finished

ONE = {"rounds": 1, "model.norm": "batch"}


def test_zero_is_fedavg():
    ours, plain = finished("qfedavg", {"strategy.q": 0.0}), finished("fedavg")
    for name, value in plain.tensors.items():
        torch.testing.assert_close(ours.tensors[name], value, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("q", [0.5, 2.0])
def test_the_step_is_the_papers_with_losses_of_the_model_that_was_sent(q):
    run = begin("qfedavg", {**ONE, "strategy.q": q})
    simulation, server = run.simulation, run.simulation.server
    data, lr = simulation.data, simulation.config.training.lr
    model = simulation.new_model(simulation.config).eval()
    start, updates = server.initial(), {}
    aggregate = server.aggregate

    def spy(found):
        for tensors, weight in found:
            updates[server.senders[-1]] = {name: value.double() for name, value in tensors.items()}
            yield tensors, weight

    server.aggregate = lambda found: aggregate(spy(found))
    run.advance(1)
    numerator, denominator = {}, 0.0
    for client, sent in updates.items():
        rows = data.partition[client]
        x = normalize(torch.from_numpy(data.dataset.x_train[rows]), data.dataset.mean, data.dataset.std)
        with torch.no_grad():
            loss = float(torch.nn.functional.cross_entropy(model(x), torch.from_numpy(data.dataset.y_train[rows])))
        assert server.losses[client] == pytest.approx(loss, rel=1e-5)
        step = {name: (start[name].double() - sent[name]) / lr for name in server.first.params}
        norm = sum(float(value.square().sum()) for value in step.values())
        for name, value in step.items():
            numerator[name] = numerator.get(name, 0) + len(rows) * loss**q * value
        denominator += len(rows) * (q * loss ** (q - 1) * norm + loss**q / lr)
    for name, value in numerator.items():
        torch.testing.assert_close(
            run.tensors[name].double(), start[name].double() - value / denominator, rtol=1e-4, atol=1e-6
        )
    weights = np.array([len(data.partition[client]) for client in updates], float)
    for name in server.first.buffers:  # averaged, and no part of the step's length
        if name.endswith("running_var"):
            mean = sum(w * sent[name] for w, sent in zip(weights / weights.sum(), updates.values(), strict=True))
            torch.testing.assert_close(run.tensors[name].double(), mean, rtol=1e-4, atol=1e-6)


def test_fairness_is_told_where_clients_are_measured():
    metrics = begin("qfedavg", {"eval_clients": "all", "eval_every": 1, "data.client_test": "split"}).advance(1)
    assert metrics["clients/num_clients"] == 4
    assert 0 <= metrics["clients/accuracy_worst10"] <= metrics["clients/accuracy"]
    assert metrics["clients/accuracy_std"] >= 0


def test_no_privacy_without_noise_on_the_losses():
    with pytest.raises(FedsimError, match=r"privacy\.client"):
        begin("qfedavg", {"privacy.client.noise_multiplier": 1.0, "model.norm": "none"})
