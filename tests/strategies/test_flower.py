"""Flower's strategies behind our round loop; what all methods keep is in test_contract.py."""

import numpy as np
import pytest
import torch
from flwr.serverapp import strategy as flower

from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.registry import describe, load_strategy
from strategies.flower import _server
from tests.strategies.small_runs import BASE, begin, finished, halves

FLOWERS = sorted(name for name, (module, _) in describe("strategies").items() if module == "strategies.flower")


def test_flowers_fedavg_is_ours():
    ours = finished("fedavg").tensors
    with halves("fedavg", server=_server(flower.FedAvg)):
        theirs = finished("fedavg").tensors
    for name, value in ours.items():
        assert theirs[name].dtype == value.dtype
        torch.testing.assert_close(theirs[name], value, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", FLOWERS)
def test_each_trains_with_the_plain_client(method):
    assert load_strategy(method).client is Client
    metrics = finished(method).state.metrics
    assert len(metrics) == BASE["rounds"]
    assert all(np.isfinite(line["metrics"]["train/loss"]) for line in metrics)


def test_a_second_moment_is_kept_between_rounds():
    run = begin("fedadam")
    run.advance(1)
    tensors, _ = run.simulation.server.state_dict()
    assert {"m_t", "v_t"} <= {name.split("/")[0] for name in tensors}
    assert any(value.abs().sum() > 0 for name, value in tensors.items() if name.startswith("m_t/"))


def test_fedadam_takes_the_step_of_the_paper():
    # From m = v = 0: m = (1 - b1) d, v = (1 - b2) d^2, step eta_t m / (sqrt(v) + tau), d the mean update, of either
    # sign; eta_t is Adam's, which Flower takes one round ahead, with exponent 2 in round 1.
    eta, tau, b1, b2 = 0.05, 1e-2, 0.9, 0.99
    options = {"strategy.eta": eta, "strategy.tau": tau, "strategy.beta_1": b1, "strategy.beta_2": b2, "rounds": 1}
    got = finished("fedadam", options)
    mean = finished("fedavg", {"rounds": 1}).tensors
    eta_t = eta * np.sqrt(1 - b2**2) / (1 - b1**2)
    for name, value in got.simulation.server.first.params.items():
        d = (mean[name] - value).double()
        assert (d > 0).any()
        assert (d < 0).any()
        expected = value + eta_t * (1 - b1) * d / (((1 - b2) * d**2).sqrt() + tau)
        torch.testing.assert_close(got.tensors[name].double(), expected, rtol=1e-4, atol=1e-6)


def test_fedavgm_without_momentum_is_a_server_learning_rate():
    run = begin("fedavgm", {"strategy.server_momentum": 0.0, "strategy.server_learning_rate": 0.4})
    run.advance(1)
    start, mean = run.simulation.server.initial(), finished("fedavg", {"rounds": 1}).tensors
    for name in run.simulation.server.first.params:
        torch.testing.assert_close(run.tensors[name], start[name] + 0.4 * (mean[name] - start[name]))


@pytest.mark.parametrize(("method", "needed"), [("krum", 7), ("multikrum", 7), ("bulyan", 11)])
def test_more_liars_than_the_rule_bears_are_refused_in_one_line(method, needed):
    with pytest.raises(FedsimError, match=f"2 liars need a cohort of at least {needed}, got 4") as error:
        begin(method, {"strategy.num_malicious_nodes": 2})
    assert "\n" not in str(error.value)


def test_krum_returns_one_of_the_updates_and_no_liars():
    run = begin("krum", {"clients": 6, "rounds": 1, "strategy.num_malicious_nodes": 1})
    seen = {}
    aggregate = run.simulation.server.aggregate_train

    def spy(server_round, replies):
        kept = list(replies)
        for number, reply in enumerate(kept):
            arrays = reply.content.array_records["arrays"]
            seen[number] = torch.from_numpy(arrays["features.1.weight"].numpy())
        return aggregate(server_round, kept)

    run.simulation.server.aggregate_train = spy
    run.advance(1)
    assert sum(torch.equal(run.tensors["features.1.weight"], update) for update in seen.values()) == 1


def test_an_adaptive_step_leaves_the_running_statistics_to_the_mean():
    mean = finished("fedavg", {"rounds": 1}).tensors
    for method in ("fedadam", "fedyogi", "fedadagrad", "fedavgm"):
        got = finished(method, {"rounds": 1}).tensors
        for name, value in mean.items():
            if "running_" in name or name.endswith("num_batches_tracked"):
                torch.testing.assert_close(got[name], value, rtol=1e-5, atol=1e-6)
