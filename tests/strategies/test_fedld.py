"""FedLD: its formulas against literal loops, their invariants, and what a run of it reports."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.federated.client import Client
from fedsim.federated.server import Server
from fedsim.federated.types import Batch
from strategies.fedld import FedLDClient, margin_penalty, num_kept, principal_weights
from tests.strategies.small_runs import assert_cohorts_agree, assert_same_bits, batches_of, begin, finished, halves


def round_of(run):
    """Advance one round; return all updates that the server got, and the round's metrics."""
    sent, aggregate = [], run.simulation.server.aggregate

    def spy(updates):
        for tensors, weight in updates:
            sent.append(tensors)
            yield tensors, weight

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.simulation.server, "aggregate", lambda updates: aggregate(spy(updates)))
        metrics = run.advance(1)
    return sent, metrics


# (a) formulas against slow twins

G1 = torch.tensor([[3.0, 0, 0], [0, 2, 0], [1, 1, 1]], dtype=torch.float64)
LOGITS = torch.tensor([[2.0, 0], [0, 1], [0, 0]], dtype=torch.float64)


def principal(g, kappa=0.8, sign_mode="code", preserve_norm=False):
    """Delta (d,) of updates (m, d)."""
    return principal_weights(g @ g.T / len(g), kappa, sign_mode, preserve_norm) @ g


def revised(g, kappa=0.8, flip=()):
    """The published steps one by one, without any guard: g~ (m, d); directions in `flip` are turned round first."""
    m, d = g.shape
    lam, e = torch.linalg.eigh(g @ g.T / m)
    lam, e = lam.flip(0), e.flip(1)
    w = [g.T @ e[:, j] * (-1 if j in flip else 1) for j in range(int(m * kappa))]
    out = torch.zeros(m, d, dtype=g.dtype)
    for i in range(m):
        for j, w_j in enumerate(w):
            v_j = w_j / w_j.norm()
            t_ij = (g[i] @ v_j) * v_j
            out[i] += lam[j] / lam.sum() * g[i].norm() * t_ij / t_ij.norm()
    return out


def random_updates(m, d=40, seed=0):
    return torch.randn(m, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def batch_of(n, mask=None):
    return Batch(torch.empty(n, 1), torch.zeros(n, dtype=torch.int64), mask)


def test_published_aggregates_of_three_clients():
    lam = torch.linalg.eigvalsh(G1 @ G1.T / 3).flip(0)
    assert lam.tolist() == pytest.approx([3.4470669, 1.6521452, 0.2341212], abs=1e-6)
    assert principal(G1).tolist() == pytest.approx([1.3905852, 0.3700311, 0.1965208], abs=1e-6)
    assert principal(G1, sign_mode="majority").tolist() == pytest.approx([1.2504252, 0.9625917, 0.3108662], abs=1e-6)


def test_published_penalties_of_three_samples():
    assert margin_penalty(LOGITS, batch_of(3), "batch").item() == pytest.approx(1.0636029, abs=1e-6)
    assert margin_penalty(LOGITS, batch_of(3), "sample").item() == pytest.approx(0.4873058, abs=1e-6)


def test_the_gradient_of_the_penalty_is_the_written_out_one():
    z = random_updates(7, 4).requires_grad_()
    (gradient,) = torch.autograd.grad(margin_penalty(z, batch_of(7), "batch"), z)
    p = z.detach().softmax(1)
    s = sum(float(p[b, c]) ** 2 for b in range(7) for c in range(4))
    for b in range(7):
        collision = sum(float(p[b, c]) ** 2 for c in range(4))
        for c in range(4):
            expected = 2 * float(p[b, c]) * (float(p[b, c]) - collision) / (1 + s)
            assert float(gradient[b, c]) == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize("reduction", ["batch", "sample"])
def test_padding_is_no_sample(reduction):
    padded = torch.cat([LOGITS, torch.full((2, 2), 5.0)])
    mask = torch.tensor([1.0, 1, 1, 0, 0])
    expected = margin_penalty(LOGITS, batch_of(3), reduction)
    torch.testing.assert_close(margin_penalty(padded, batch_of(5, mask), reduction), expected)


@pytest.mark.parametrize("m", [3, 5, 12])
def test_the_aggregate_is_the_mean_of_the_revised_gradients(m):
    g = random_updates(m)
    expected = revised(g).mean(0)
    assert (principal(g) - expected).norm() < 1e-10 * expected.norm()
    for flip in ([0], [1], range(m)):  # calibration before the revision changes nothing
        assert torch.equal(revised(g, flip=flip), revised(g))


@pytest.mark.parametrize("m", [4, 5])
def test_the_majority_turns_each_direction(m):
    g = random_updates(m, seed=2)
    lam, e = torch.linalg.eigh(g @ g.T / m)
    expected, ties = torch.zeros(40, dtype=g.dtype), 0
    for j in range(m - 1, m - 1 - int(0.8 * m), -1):
        v = g.T @ e[:, j] / (g.T @ e[:, j]).norm()
        votes = [float(row @ v) > 0 for row in g]
        ties += sum(votes) * 2 == m
        upwards = float((g @ v).sum()) > 0 if sum(votes) * 2 == m else sum(votes) * 2 > m
        expected += lam[j] / lam.sum() * g.norm(dim=1).mean() * (v if upwards else -v)
    assert ties == (m == 4)
    torch.testing.assert_close(principal(g, sign_mode="majority"), expected, rtol=1e-10, atol=1e-12)


# (c) invariants


@pytest.mark.parametrize("m", [3, 5, 12])
def test_every_gradient_shrinks_by_the_same_factor(m):
    g = random_updates(m)
    lam = torch.linalg.eigvalsh(g @ g.T / m).flip(0)
    factors = revised(g).norm(dim=1) / g.norm(dim=1)
    expected = lam[: num_kept(m, 0.8)].norm() / lam.sum()
    torch.testing.assert_close(factors, expected.expand(m), rtol=1e-12, atol=0)
    w = g.T @ torch.linalg.eigh(g @ g.T / m)[1].flip(1)
    torch.testing.assert_close(w.square().sum(0), m * lam, rtol=1e-10, atol=0)


@pytest.mark.parametrize("sign_mode", ["code", "majority"])
@pytest.mark.parametrize("preserve_norm", [False, True])
def test_it_is_equivariant(sign_mode, preserve_norm):
    g = random_updates(5)
    delta = principal(g, 0.8, sign_mode, preserve_norm)
    turn = torch.linalg.qr(random_updates(40, seed=1))[0]
    for got, expected in [
        (principal(3.7 * g, 0.8, sign_mode, preserve_norm), 3.7 * delta),
        (principal(g[[3, 0, 4, 1, 2]], 0.8, sign_mode, preserve_norm), delta),
        (principal(g @ turn, 0.8, sign_mode, preserve_norm), delta @ turn),
    ]:
        torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-10)


def test_clients_that_agree_are_followed():
    g = random_updates(1).expand(5, -1)
    torch.testing.assert_close(principal(g), g[0], rtol=0, atol=1e-6)


def test_the_norm_of_the_mean_can_be_kept():
    g = random_updates(5)
    kept, plain = principal(g, preserve_norm=True), principal(g)
    assert float(kept.norm()) == pytest.approx(float(g.mean(0).norm()), rel=1e-12)
    torch.testing.assert_close(kept / kept.norm(), plain / plain.norm())


DEGENERATE = {
    "one client stands still": torch.cat([random_updates(4), torch.zeros(1, 40, dtype=torch.float64)]),
    "all stand still": torch.zeros(5, 40, dtype=torch.float64),
    "rank one": torch.tensor([[1.0], [-2.0], [0.5]], dtype=torch.float64) @ random_updates(1),
    "they cancel": torch.cat([random_updates(2), -random_updates(2)]),
    "twice the same": random_updates(3)[[0, 0, 1, 1, 2]],
    "orthogonal": torch.eye(5, 40, dtype=torch.float64),
    "one": random_updates(1),
    "two": random_updates(2),
}


@pytest.mark.parametrize("case", DEGENERATE)
@pytest.mark.parametrize("sign_mode", ["code", "majority"])
@pytest.mark.parametrize("preserve_norm", [False, True])
def test_degenerate_updates_make_finite_steps(case, sign_mode, preserve_norm):
    g = DEGENERATE[case]
    delta = principal(g, 0.8, sign_mode, preserve_norm)
    assert delta.isfinite().all()
    assert delta.norm() <= g.norm(dim=1).max() * (1 + 1e-9)
    if case == "all stand still":
        assert not delta.any()
    if case == "one":
        torch.testing.assert_close(delta, g[0])


def test_a_client_that_stands_still_or_across_does_not_vote():
    # v_1 is along the first client; the second stands still, the third moves across, but for rounding.
    g = torch.zeros(3, 40, dtype=torch.float64)
    g[0, 0], g[2, 1] = 3.0, 1.0
    share = 9 / 10
    for seed in range(8):
        turn = torch.linalg.qr(random_updates(40, seed=seed))[0]
        torch.testing.assert_close(principal(g @ turn, kappa=0.4), share / 3 * (g @ turn)[0])


# (b) limits


class Unweighted(Client):
    def finish(self, update, extras):
        return update._replace(weights=torch.ones_like(update.weights))


class AllUpdates(Server):
    replies = "updates"


OFF = {"strategy.penalty": 0.0, "strategy.aggregation": "mean"}


def test_without_either_half_it_is_unweighted_fedavg():
    with halves("fedavg", client=Unweighted, server=AllUpdates):
        expected = finished("fedavg", {"cohort": 3}).tensors
    assert_same_bits(finished("fedld", {"cohort": 3, "training.weight_decay": 0.0, **OFF}).tensors, expected)


def test_the_first_round_is_the_mean_and_later_ones_are_not():
    pg = {"strategy.penalty": 0.0}
    run, mean = begin("fedld", pg), begin("fedld", OFF)
    run.advance(1)
    mean.advance(1)
    assert_same_bits(run.tensors, mean.tensors)
    run.advance(1)
    mean.advance(1)
    assert not torch.equal(run.tensors["classifier.weight"], mean.tensors["classifier.weight"])


def test_half_a_server_step_is_half_the_way():
    start, whole = begin("fedld").tensors, finished("fedld", {"rounds": 1}).tensors
    half = finished("fedld", {"rounds": 1, "strategy.server_lr": 0.5}).tensors
    for name in ("features.1.weight", "classifier.bias"):
        torch.testing.assert_close(half[name], (start[name] + whole[name]) / 2)
    assert torch.equal(half["features.2.running_mean"], whole["features.2.running_mean"])


def test_the_margin_penalty_is_part_of_what_clients_minimise():
    alone = {"rounds": 1, "clients": 1, "model.norm": "none", "training.precision": "float64", "training.momentum": 0.0}
    alone |= {"training.weight_decay": 0.0}
    run = finished("fedld", {**alone, "strategy.penalty": 0.7})
    model = run.simulation.new_model(run.simulation.config)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in batches_of(run, 0, 1):
        optimizer.zero_grad()
        z = model(x)
        (F.cross_entropy(z, y) + 0.7 * torch.log(1 + torch.linalg.matrix_norm(z.softmax(1)) ** 2)).backward()
        optimizer.step()
    for name, value in model.named_parameters():
        torch.testing.assert_close(run.tensors[name], value.detach(), rtol=1e-10, atol=1e-12)


# A round by hand


@pytest.mark.parametrize("scope", ["tensor", "layer", "model"])
def test_a_round_decomposes_what_belongs_together_and_averages_buffers(scope):
    run = begin("fedld", {"strategy.pg_scope": scope, "training.precision": "float64", "rounds": 2})
    run.advance(1)
    w = dict(run.tensors)
    sent, _ = round_of(run)
    params = run.simulation.server.first.params
    key = {"tensor": lambda name: name, "layer": lambda name: name.rpartition(".")[0], "model": lambda name: ""}[scope]
    for part in {key(name) for name in params}:
        names = [name for name in params if key(name) == part]
        g = torch.stack([torch.cat([(wi[name] - w[name]).flatten() for name in names]) for wi in sent])
        expected = torch.cat([w[name].flatten() for name in names]) + revised(g).mean(0)
        got = torch.cat([run.tensors[name].flatten() for name in names])
        torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-11)
    for name in set(w) - set(params):
        mean = torch.stack([wi[name].double() for wi in sent]).mean(0)
        counts = not run.tensors[name].is_floating_point()
        torch.testing.assert_close(run.tensors[name].double(), mean.round() if counts else mean, rtol=1e-9, atol=1e-9)


def test_a_tensor_is_averaged_until_it_has_moved_and_that_is_remembered():
    frozen = "features.1.weight"

    class Late(FedLDClient):
        """Moves one tensor in the third round only."""

        frozen = True

        def phases(self):
            (phase,) = super().phases()
            return [type(phase)(phase.loss, lambda name: name != frozen)] if type(self).frozen else [phase]

    with halves("fedld", client=Late):
        run, twin = begin("fedld", {"strategy.penalty": 0.0}), begin("fedld", OFF)
        run.advance(2)
        moved = run.simulation.server.state_dict()[1]["moved"]
        assert [name for name, ever in moved.items() if not ever] == [frozen]
        Late.frozen = False
        twin.state.tensors = dict(run.tensors)
        twin.state.round = 2
        run.advance(1)
        twin.advance(1)
    assert torch.equal(run.tensors[frozen], twin.tensors[frozen])
    assert not torch.equal(run.tensors["classifier.weight"], twin.tensors["classifier.weight"])


@pytest.mark.parametrize("reduction", ["batch", "sample"])
def test_together_and_one_by_one_agree(reduction):
    assert_cohorts_agree("fedld", {"strategy.penalty": 1.0, "strategy.mcr_reduction": reduction, "rounds": 2})


def test_running_variances_stay_positive_for_twenty_rounds():
    run = finished("fedld", {"rounds": 20, "strategy.penalty": 1.0})
    assert all(value.isfinite().all() for value in run.tensors.values())
    assert (run.tensors["features.2.running_var"] > 0).all()


def test_in_evaluation_mode_statistics_stay():
    run = finished("fedld", {"strategy.bn_mode": "eval"})
    start = run.simulation.server.initial()
    assert torch.equal(run.tensors["features.2.running_mean"], start["features.2.running_mean"])
    assert not torch.equal(run.tensors["features.1.weight"], start["features.1.weight"])


def test_failed_clients_and_one_client_alone_are_aggregated():
    faulty = finished("fedld", {"faults.dropout": 0.4, "rounds": 3})
    assert faulty.state.failures > 0
    assert faulty.tensors["classifier.weight"].isfinite().all()
    alone, mean = (finished("fedld", {"clients": 1, "strategy.penalty": 0.0, **more}) for more in ({}, OFF))
    for name, value in mean.tensors.items():  # PG of one update is that update
        torch.testing.assert_close(alone.tensors[name], value, rtol=1e-4, atol=1e-5)


# What it reports


def test_the_parts_of_the_loss_add_up_and_are_what_they_are_called():
    run = begin("fedld", {"strategy.loss_parts": True, "faults.dropout": 0.3, "rounds": 3, "seed": 1})
    for _ in range(3):
        sent, metrics = round_of(run)
        parts = {n.rpartition(":")[2]: value for n, value in metrics.items() if n.startswith("train/loss_parts:")}
        assert parts["local"] + parts["shift"] + parts["aggregation"] == pytest.approx(parts["total"], abs=1e-6)
    lost = {client for clients in run.state.metrics[-1].get("failures", {}).values() for client in clients}
    assert lost
    clients = run.simulation.server.senders
    assert sorted(clients) == sorted(set(range(4)) - lost)

    def loss(tensors, client):
        model = run.simulation.new_model(run.simulation.config)
        model.load_state_dict(tensors)
        rows = torch.from_numpy(run.simulation.data.partition[client])
        x, y = run.simulation.worker.train_set.batch(rows, None)
        return F.cross_entropy(model.eval()(x), y).item()

    local = np.mean([loss(wk, client) for wk, client in zip(sent, clients, strict=True)])
    assert parts["local"] == pytest.approx(local, rel=1e-5)
    assert parts["total"] == pytest.approx(np.mean([loss(run.tensors, client) for client in clients]), rel=1e-5)
    of_locals = np.mean([loss(wk, client) for wk in sent for client in clients])
    assert parts["shift"] == pytest.approx(of_locals - local, rel=1e-4)


def test_the_spectrum_is_that_of_all_updates():
    run = begin("fedld", {"strategy.pg_scope": "model"})
    run.advance(1)
    w = dict(run.tensors)
    sent, metrics = round_of(run)
    params = run.simulation.server.first.params
    g = np.array([np.concatenate([(wi[n] - w[n]).double().numpy().ravel() for n in params]) for wi in sent])
    step = np.concatenate([(run.tensors[n] - w[n]).double().numpy().ravel() for n in params])
    energy = np.linalg.svd(g, compute_uv=False) ** 2
    shares = energy / energy.sum()
    for j in range(4):
        assert metrics[f"train/updates:energy_{j + 1}"] == pytest.approx(shares[j], rel=1e-6)
    assert metrics["train/updates:energy_kept"] == pytest.approx(shares[:3].sum(), rel=1e-6)
    ratio = np.linalg.norm(step) / np.linalg.norm(g.mean(0))
    assert metrics["train/updates:norm_ratio"] == pytest.approx(ratio, rel=1e-4)


def test_the_first_round_keeps_all_energy():
    metrics = begin("fedld").advance(1)
    assert metrics["train/updates:energy_kept"] == pytest.approx(1.0)
    assert metrics["train/updates:norm_ratio"] == pytest.approx(1.0)
