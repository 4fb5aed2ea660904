"""The noise on means, what remains visible of single responses, and the privacy that is accounted."""

import gc
import math
import subprocess
import sys
import types
from itertools import product

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from fedsim.config.resolve import resolve
from fedsim.data.federation import federate
from fedsim.flower.records import to_tensors
from fedsim.privacy.guarantees import guarantees
from fedsim.runs.simulation import Simulation
from strategies.aggregate import (
    AggregateConfig,
    add_noise,
    aggregate_responses,
    as_targets,
    bag_means,
    sensitivities,
)
from tests.strategies.aggregate_runs import CANCER, LINEAR, advanced
from tests.strategies.small_runs import assert_same_bits

# The mechanism --------------------------------------------------------------------------------------------------------

numbers = hnp.arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(-1e9, 1e9))


@given(numbers, st.floats(0.1, 100), st.data())
def test_one_response_moves_one_mean_by_no_more_than_the_sensitivity(y, bound, data):
    row, column = (data.draw(st.integers(0, size - 1)) for size in y.shape)
    other = y.copy()
    y[row, column], other[row, column] = -1e12, data.draw(st.floats(-1e9, 1e12))
    moved = np.abs(bag_means(y, 1, bound) - bag_means(other, 1, bound))[:, 0]
    l1, l2 = sensitivities(y.shape[1], 1, bound)
    assert l1 == l2
    assert moved[row] <= l1 * (1 + 1e-9)
    assert not np.delete(moved, row).any()


def test_the_sensitivity_is_reached():
    y = np.random.default_rng(0).uniform(-3, 3, (4, 5))
    low, high = y.copy(), y.copy()
    low[2, 1], high[2, 1] = -3.0, 3.0
    moved = bag_means(high, 1, 3.0) - bag_means(low, 1, 3.0)
    assert moved[2, 0] == pytest.approx(2 * 3.0 / 5, abs=1e-15)
    assert np.count_nonzero(moved) == 1


@pytest.mark.parametrize(("k", "classes"), [(1, 2), (3, 2), (1, 3), (2, 3), (3, 4)])
def test_the_sensitivity_of_classes_by_brute_force(k, classes):
    worst1 = worst2 = 0.0
    for labels in product(range(classes), repeat=k):
        for place, label in product(range(k), range(classes)):
            other = [*labels[:place], label, *labels[place + 1 :]]
            gap = bag_means(np.array([labels]), classes, None) - bag_means(np.array([other]), classes, None)
            worst1, worst2 = max(worst1, np.abs(gap).sum()), max(worst2, np.sqrt((gap**2).sum()))
    assert (worst1, worst2) == pytest.approx(sensitivities(k, classes, 1.0))


def scale_of(options, k, classes):
    """The scale of the noise that is added: it is that of a standard draw times this."""
    zeros = np.zeros((3, 1 if classes < 3 else classes))
    noise = add_noise(zeros, options, k, classes, np.random.default_rng(5))
    standard = getattr(np.random.default_rng(5), "laplace" if options.mechanism == "laplace" else "normal")
    return float((noise / standard(size=zeros.shape)).mean())


def worst_log_ratio(shift, scale):
    """Of the Laplace densities with centres 0 and `shift`, over a grid that holds both centres."""
    x = np.linspace(-3 * shift, 4 * shift, 7001)
    return float(np.max(np.abs(np.abs(x - shift) - np.abs(x)) / scale))


@pytest.mark.parametrize(("k", "classes"), [(1, 1), (4, 1), (4, 2), (4, 3)])
@pytest.mark.parametrize("epsilon", [0.5, 1.0, 4.0])
def test_the_density_ratio_of_laplace_is_epsilon(k, classes, epsilon):
    options = AggregateConfig(name="aggregate", epsilon=epsilon, clip=3.5)
    scale, l1 = scale_of(options, k, classes), sensitivities(k, classes, 3.5)[0]
    # Coordinates are independent, so that ratios multiply: the sum of the shifts counts.
    assert worst_log_ratio(l1, scale) == pytest.approx(epsilon, abs=1e-12)
    assert worst_log_ratio(l1, scale / 2) == pytest.approx(2 * epsilon)  # B / (k eps) is half of what it takes


@pytest.mark.parametrize("mechanism", ["laplace", "gaussian"])
def test_the_noise_has_the_law_that_is_claimed(mechanism):
    options = AggregateConfig(name="aggregate", epsilon=1.0, clip=3.5, mechanism=mechanism)
    noise = add_noise(np.zeros((100_000, 1)), options, 4, 1, np.random.default_rng(0))[:, 0]
    reach = 2 * 3.5 / 4
    assert noise.std() == pytest.approx(math.sqrt(2) * reach if mechanism == "laplace" else 3.7306 * reach, rel=0.02)
    kurtosis = (noise**4).mean() / noise.var() ** 2
    assert kurtosis == pytest.approx(6 if mechanism == "laplace" else 3, rel=0.1)
    assert abs(np.corrcoef(noise[1:], noise[:-1])[0, 1]) < 0.01


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_response_that_clipping_does_not_bound_is_refused(bad):
    with pytest.raises(ValueError, match="finite"):
        bag_means(np.array([[0.0, bad]]), 1, 1.0)


@given(hnp.arrays(np.float64, (4, 5), elements=st.floats(-20, 20)))
def test_shares_are_the_nearest_of_the_simplex(released):
    shares = as_targets(released, 5)
    np.testing.assert_allclose(shares.sum(1), 1)
    assert (shares >= 0).all()
    # The nearest point p of a convex set: <v - p, q - p> <= 0 for all its points q, corners suffice.
    angles = ((released - shares)[:, None] * (np.eye(5) - shares[:, None])).sum(2)
    assert angles.max() < 1e-9
    two = as_targets(released[:, :1], 2)
    assert (two >= 0).all()
    np.testing.assert_allclose(two.sum(1), 1)


# What is to be seen ---------------------------------------------------------------------------------------------------


def arrays_within(*roots):
    """All arrays and tensors that can be reached from some objects, but not through modules, classes or functions."""
    shut = (types.ModuleType, type, types.FunctionType, types.BuiltinFunctionType, types.FrameType)
    found, stack, seen = [], list(roots), set()
    while stack:
        item = stack.pop()
        if id(item) in seen or isinstance(item, shut):
            continue
        seen.add(id(item))
        if isinstance(item, np.ndarray):
            found.append(item)
            stack.append(item.base)
        elif isinstance(item, torch.Tensor):
            if item.device.type != "meta":
                found.append(item.detach().numpy())
        elif isinstance(item, ArrayRecord):
            stack += to_tensors(item).values()
        else:
            stack += gc.get_referents(item)
    return found


def raw_responses_in(config, rounds=2):
    """How many of the raw training responses can be found in the run's objects and messages after some rounds."""
    raw = federate(config.data, config.clients, config.seed).dataset.y_train
    simulation = Simulation(config)
    messages = []
    aggregate = simulation.server.aggregate_train

    def spy(server_round, replies):
        kept = list(replies)
        messages.extend(reply.content for reply in kept)
        return aggregate(server_round, kept)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulation.server, "aggregate_train", spy)
        engine, state = simulation.engine(), simulation.begin()
        for _ in range(rounds):
            simulation.step(state, engine)
    assert messages
    states = [engine.states[client] for client in range(config.clients)]
    arrays = arrays_within(simulation, simulation.worker, engine, state, *messages, *states)
    values = [a.astype(np.float32).ravel() for a in arrays if a.dtype.kind == "f"]
    assert any(len(v) >= 20 for v in values)
    return int(np.isin(raw, np.concatenate(values)).sum())


def test_no_response_is_within_reach_of_clients_server_or_messages():
    assert raw_responses_in(resolve(LINEAR)) == 0
    assert raw_responses_in(resolve(LINEAR, {"strategy.name": "fedavg"})) == 500  # where they are, they are found


def test_labels_of_classes_are_gone_too():
    config = resolve(CANCER, {"data.partition": {"name": "dirichlet", "alpha": 0.3}})
    held = Simulation(config).data
    assert held.dataset.y_train.shape == (held.class_counts[0], 2)
    assert held.partition.label_counts(held.dataset.strata_train, held.dataset.num_strata).shape == (4, 1)
    # Clients are tested on any rows, not on a mix like their own.
    plain = federate(config.data, 4, 0)
    large = np.flatnonzero(plain.partition.sizes > 40)
    shares = [held.dataset.y_test[held.client_test[client]].mean() for client in large]
    own = [plain.dataset.y_train[plain.partition[client]].mean() for client in large]
    assert len(large) > 1
    assert np.std(shares) < np.std(own) / 2


def test_noise_is_drawn_once_and_the_same_in_another_process():
    config = resolve(LINEAR)
    simulation = Simulation(config)
    before = simulation.data.content_hash
    targets = simulation.worker.train_set.y.clone()
    advanced(simulation, 3)
    assert_same_bits({"y": simulation.worker.train_set.y}, {"y": targets})
    code = (
        f"from fedsim.config.resolve import resolve; from fedsim.data import federate; "
        f"from strategies.aggregate import aggregate_responses as hold; config = resolve({LINEAR!r}); "
        f"print(hold(config, federate(config.data, config.clients, config.seed)).content_hash)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == before
    longer = Simulation(resolve(LINEAR, {"rounds": 9, "training.epochs": 4, "strategy.rho": 0.7}))
    assert longer.data.content_hash == before  # of nothing but the seed
    assert Simulation(resolve(LINEAR, {"seed": 1})).data.content_hash != before


def test_noise_is_independent_between_clients():
    config = resolve(LINEAR, {"strategy.epsilon": 1e-6})  # noise is all there is
    held = aggregate_responses(config, federate(config.data, 5, 0))
    by_client = np.stack([held.dataset.y_train[bags] for bags in held.partition])
    assert by_client.shape == (5, 25)
    assert np.abs(np.corrcoef(by_client) - np.eye(5)).max() < 0.7


def epsilons(changes, rounds):
    simulation = Simulation(resolve(LINEAR, {"strategy.epsilon": 0.5, **changes}))
    ledger = advanced(simulation, rounds).ledger
    return {(row.unit, row.adjacency): (row.epsilon, row.delta) for row in guarantees(ledger)}, ledger


def test_label_privacy_is_spent_once_however_many_rounds():
    once, ledger = epsilons({}, 1)
    assert once == {("response", "replaced"): (0.5, 0.0)}
    assert epsilons({"cohort": 2, "training.epochs": 3}, 4)[0] == once
    uncovered = {release.what for release in ledger.uncovered("response")}
    assert "numbers of samples" in uncovered
    assert not uncovered & {"trained models", "training metrics", "accuracies on clients' own test samples"}


def test_gaussian_noise_is_accounted_at_its_delta():
    ((epsilon, delta),) = epsilons({"strategy.mechanism": "gaussian", "strategy.delta": 1e-6}, 2)[0].values()
    assert delta == 1e-6
    assert epsilon == pytest.approx(0.5, rel=1e-2)


def test_dp_sgd_over_bags_grows_with_rounds_beside_it():
    """Its record is the bag: a sample with its response replaced is a bag replaced, which costs more."""
    changes = {
        "privacy.example.noise_multiplier": 1.0, "privacy.example.max_grad_norm": 1.0,
        "privacy.example.delta": 1e-3,
    }  # fmt: skip
    (few, ledger), (more, _) = epsilons(changes, 1), epsilons(changes, 3)
    assert few["response", "replaced"] == more["response", "replaced"] == (0.5, 0.0)
    for rows in (few, more):
        assert rows["example", "replaced"][0] > rows["example", "added or removed"][0]
    assert more["example", "added or removed"][0] > few["example", "added or removed"][0]
    (gradients,) = ledger.protecting("example")
    assert "an example is a bag of samples" in gradients.note


def test_exact_means_are_declared_unprotected():
    client = Simulation(resolve(LINEAR, {"strategy.epsilon": None})).worker.client
    assert {release.mechanism for release in client.releases()} == {"none"}
