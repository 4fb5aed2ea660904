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
    # sign; eta_t is Adam's with t = 1, where Flower by itself begins with t = 2: 0.74 of this step.
    eta, tau, b1, b2 = 0.05, 1e-2, 0.9, 0.99
    options = {"strategy.eta": eta, "strategy.tau": tau, "strategy.beta_1": b1, "strategy.beta_2": b2, "rounds": 1}
    got = finished("fedadam", options)
    mean = finished("fedavg", {"rounds": 1}).tensors
    eta_t = eta * np.sqrt(1 - b2) / (1 - b1)
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


# method, options, clients -> what is said; nothing where the rule protects
DEGENERATE = [
    ("fedtrimmedavg", {}, 4, "trims nobody: strategy.beta, 0.2, of 4 clients is below one"),
    ("fedtrimmedavg", {}, 5, ""),
    ("fedmedian", {}, 2, "of 2 clients is a plain mean"),
    ("fedmedian", {}, 3, ""),
    ("multikrum", {}, 4, "num_nodes_to_select, 5, is not below the 4 clients of a round; it is FedAvg"),
    ("multikrum", {"num_nodes_to_select": 3}, 4, ""),
    ("krum", {}, 2, "no distances to compare"),
    ("krum", {}, 4, ""),
    ("bulyan", {}, 4, "num_malicious_nodes 0 leaves nobody out"),
    ("bulyan", {"num_malicious_nodes": 1}, 7, ""),
]


@pytest.mark.parametrize(("method", "options", "clients", "said"), DEGENERATE)
def test_a_robust_rule_that_protects_from_nobody_says_so_before_the_run(method, options, clients, said):
    changes = {f"strategy.{name}": value for name, value in options.items()}
    choices = begin(method, {"clients": clients, **changes}).simulation.choices
    assert said in choices.get("note", "") if said else "note" not in choices


def test_every_rule_was_asked():
    robust = {"fedmedian", "fedtrimmedavg", "krum", "multikrum", "bulyan"}
    assert {method for method, *_ in DEGENERATE} == robust
    assert set(FLOWERS) - robust == {"fedavgm", "fedadagrad", "fedadam", "fedyogi"}


def test_bulyan_names_the_replies_it_needs():
    with pytest.raises(FedsimError, match="0 liars need a cohort of at least 3, got 2"):
        begin("bulyan", {"clients": 2})
    with pytest.raises(FedsimError, match=r"round 1: . good replies, but bulyan needs at least 3 against 0 liars"):
        begin("bulyan", {"faults.dropout": 0.7, "seed": 1}).advance(3)


@pytest.mark.parametrize("lr", [1e-1, 1e-6])
@pytest.mark.parametrize("method", ["krum", "multikrum", "bulyan"])
def test_distances_are_those_of_small_steps_too(method, lr):
    # The twin: float64 differences, every pair by itself. In float32, models an lr of 1e-6 apart are all alike.
    options = {"krum": {}, "multikrum": {"strategy.num_nodes_to_select": 3}, "bulyan": {}}[method]
    liars = {"strategy.num_malicious_nodes": 1, "clients": 8, "rounds": 1, "model.norm": "none", "training.lr": lr}
    run = begin(method, {**liars, **options})
    start = torch.cat([v.double().flatten() for v in run.simulation.server.first.params.values()])
    moved = []
    aggregate = run.simulation.server.aggregate_train

    def spy(server_round, replies):
        kept = list(replies)
        for reply in kept:
            arrays = reply.content.array_records["arrays"]
            flat = [arrays[n].numpy().astype(np.float64).ravel() for n in run.simulation.server.first.params]
            moved.append(np.concatenate(flat) - start.numpy())
        return aggregate(server_round, kept)

    run.simulation.server.aggregate_train = spy
    run.advance(1)
    distances = np.array([[((a - b) ** 2).sum() for b in moved] for a in moved])
    order = np.argsort(np.sort(distances)[:, 1 : 8 - 1 - 2 + 1].sum(1))
    sizes = np.sort(run.simulation.data.partition.sizes)[::-1]
    if method == "krum":
        expected = moved[order[0]]
    elif method == "multikrum":
        expected = np.average([moved[k] for k in order[:3]], axis=0, weights=[sizes[k] for k in order[:3]])
    else:
        chosen = np.array([moved[k] for k in order[:6]])
        near = np.argsort(np.abs(chosen - np.median(chosen, axis=0)), axis=0)[:4]
        expected = np.take_along_axis(chosen, near, axis=0).mean(0)
    got = torch.cat([run.tensors[n].double().flatten() for n in run.simulation.server.first.params]) - start
    rounding = 2.0**-23 * start.abs().numpy()
    assert (np.abs(got.numpy() - expected) <= rounding + 1e-3 * np.abs(expected)).mean() > 0.999
