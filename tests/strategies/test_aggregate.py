"""Bags and their losses; the federation against the exact solution; choices and refusals."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.data.federation import federate
from fedsim.errors import FedsimError
from fedsim.federated.types import Batch, Extras
from fedsim.runs.simulation import Simulation
from strategies.aggregate import (
    aggregate_responses,
    choose_bag_size,
    cross_entropies,
    squared_errors,
)
from strategies.aggregate_theory import solution
from tests.strategies.aggregate_runs import CANCER, LINEAR, advanced, unlike

# Losses ---------------------------------------------------------------------------------------------------------------


def bags_of(k, seed=0, num=8):
    rng = np.random.default_rng(seed)
    return torch.tensor(rng.normal(size=num)), torch.tensor(rng.normal(size=(num, k)), requires_grad=True)


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0, 2.5])
def test_the_loss_is_the_interpolation_of_bag_and_instance_losses(k, rho):
    y, f = bags_of(k)
    bag, spread = squared_errors(y, f)
    expected = (1 - rho) * (y - f.mean(1)) ** 2 + rho * ((y[:, None] - f) ** 2).mean(1)
    assert (bag + rho * spread - expected).abs().max() < 1e-12
    if k == 1:
        assert torch.equal(spread, torch.zeros_like(spread))


@pytest.mark.parametrize("k", [1, 2, 5])
@pytest.mark.parametrize("rho", [0.0, 0.3, 1.0])
def test_the_loss_of_shares_interpolates_cross_entropies(k, rho):
    rng = np.random.default_rng(1)
    y = torch.tensor(rng.dirichlet(np.ones(3), size=6))
    logits = torch.tensor(3 * rng.normal(size=(6, k, 3)))
    p = logits.softmax(2)
    of_bag, of_instances = -(y * p.mean(1).log()).sum(1), -(y[:, None] * p.log()).sum(2).mean(1)
    bag, spread = cross_entropies(y, logits)
    assert (bag + rho * spread - ((1 - rho) * of_bag + rho * of_instances)).abs().max() < 1e-12
    assert (spread > -1e-12).all()  # Jensen


def test_gradients_at_the_two_ends():
    y, f = bags_of(4)
    bag, spread = squared_errors(y, f)
    (at_zero,) = torch.autograd.grad(bag.sum(), f, retain_graph=True)
    assert (at_zero - at_zero[:, :1]).abs().max() < 1e-10  # all of a bag are pulled alike
    (at_one,) = torch.autograd.grad((bag + spread).mean(), f)
    (plain,) = torch.autograd.grad((y.repeat_interleave(4) - f.reshape(-1)).square().mean(), f)
    assert (at_one - plain).abs().max() < 1e-10  # regression on the bag's mean, k times over


@pytest.mark.parametrize("base", [LINEAR, CANCER])
def test_padded_bags_do_not_count(base):
    simulation = Simulation(resolve(base))
    worker = simulation.worker
    state = simulation.server.split(simulation.server.initial())
    x, y = worker.train_set.batch(torch.arange(5), None)
    extras = Extras(state.params, {})
    expected, _ = worker.client.loss(state.params, state.buffers, extras, Batch(x[:3], y[:3]))
    mask = torch.tensor([1.0, 1, 1, 0, 0])
    got, metrics = worker.client.loss(state.params, state.buffers, extras, Batch(x, y, mask))
    assert got == pytest.approx(float(expected), rel=1e-6)
    assert metrics["bag_size"] == x.shape[1]


# The federation -------------------------------------------------------------------------------------------------------


def test_bags_are_cut_within_clients_and_use_each_sample_at_most_once():
    config = resolve(LINEAR, {"strategy.epsilon": None, "strategy.bag_size": 7})
    raw = unlike(config)
    held = aggregate_responses(config, raw)
    assert held.partition.sizes.tolist() == [size // 7 for size in raw.partition.sizes]
    row_of = {x.tobytes(): row for row, x in enumerate(raw.dataset.x_train)}
    seen: set[int] = set()
    for client, bags in enumerate(held.partition):
        for bag in bags:
            rows = [row_of[x.tobytes()] for x in held.dataset.x_train[bag]]
            assert set(rows) <= set(raw.partition[client].tolist())
            assert not seen & set(rows)
            seen |= set(rows)
            assert held.dataset.y_train[bag] == pytest.approx(raw.dataset.y_train[rows].mean(), abs=1e-6)


def test_one_local_step_a_round_reaches_the_exact_solution_and_more_drift():
    """Clients of unlike size, so that a mean with other weights than M_c ends elsewhere."""
    gaps = []
    for epochs, rounds in ((1, 110), (5, 40)):
        config = resolve(LINEAR, {"training.epochs": epochs, "training.lr": 0.6})
        simulation = Simulation(config, data=unlike(config))
        held = simulation.data.dataset
        exact = solution(held.x_train, held.y_train, 0.1)
        theta = advanced(simulation, rounds).tensors["classifier.weight"][0].numpy()
        gaps.append(np.linalg.norm(theta - exact))
    assert gaps[0] < 1e-8
    assert 1e-3 < gaps[1] < 1


@pytest.mark.parametrize("base", [LINEAR, CANCER])
def test_clients_together_and_apart_agree(base):
    states = []
    for mode in ("never", "always"):
        changes = {"training.vectorize": mode, "training.precision": "float64", "training.batch_size": 7}
        config = resolve(base, changes)
        data = unlike(config) if base is LINEAR else None
        states.append(advanced(Simulation(config, data=data), 2).tensors)
    for name, value in states[0].items():
        torch.testing.assert_close(states[1][name], value, rtol=1e-9, atol=1e-12)


def test_without_noise_and_bags_of_one_it_is_fedavg():
    mine = resolve(LINEAR, {"strategy.bag_size": 1, "strategy.epsilon": None, "training.batch_size": 16})
    fedavg = resolve(LINEAR, {"strategy.name": "fedavg", "training.batch_size": 16})
    # Bags of one are the samples in another order; each client is to see them in its own.
    raw = federate(mine.data, 5, 0)
    bagged = aggregate_responses(mine, raw)
    same = replace(
        raw, dataset=replace(bagged.dataset, x_train=bagged.dataset.x_train[:, 0]), partition=bagged.partition
    )
    ours, theirs = advanced(Simulation(mine, data=raw), 3), advanced(Simulation(fedavg, data=same), 3)
    torch.testing.assert_close(ours.tensors["classifier.weight"], theirs.tensors["classifier.weight"])


# Choices and refusals -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("epsilon", "rho", "expected"), [(None, 0.3, 1), (0.01, 0.0, 1), (0.01, 1.0, 29)])
def test_auto_takes_the_size_of_the_least_predicted_risk(epsilon, rho, expected):
    config = resolve(LINEAR, {"strategy.bag_size": "auto", "strategy.epsilon": epsilon, "strategy.rho": rho})
    data = unlike(config)
    assert data.partition.sizes.min() == 29
    assert choose_bag_size(config.strategy, data) == expected
    assert aggregate_responses(config, data).dataset.x_train.shape[1] == expected


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"strategy.bag_size": 101}, "strategy.bag_size: no client has 101 samples"),
        ({"strategy.bag_size": "auto", "data.linear.n": 15}, "strategy.bag_size: auto cannot choose"),
        ({"data.client_test": "split"}, "data.client_test: .* must be matched"),
        (
            {"data.name": "digits", "strategy.bag_size": "auto", "model": "mlp"},
            "strategy.bag_size: auto is derived for",
        ),
        ({"data.name": "digits", "data.augment": "crop", "model": "mlp"}, "data.augment: bags are not augmented"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(changes, line):
    with pytest.raises(FedsimError, match=line) as caught:
        Simulation(resolve(LINEAR, changes))
    assert "\n" not in str(caught.value)
