"""FedLoGe; the frame V itself is tested in tests/fedsim/models/test_etf.py, the long tail in tests/fedsim/data."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fedsim.runs.simulation
from fedsim.evaluation import TestSet
from fedsim.federated.types import Batch, Extras, State
from fedsim.runs.checkpoint import load_latest
from fedsim.training.trainer import Trainer
from strategies.fedloge import FedLoGeClient, FedLoGeServer, realign_global, realign_personal
from tests.strategies.small_runs import (
    assert_cohorts_agree,
    assert_same_bits,
    batches_of,
    begin,
    finished,
    halves,
    names_sent,
)

# (a) formulas against slow twins


@pytest.fixture
def head():
    """W (6, 9) and b (6,), float64, of both signs."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(6, 9, generator=rng, dtype=torch.float64), torch.randn(6, generator=rng, dtype=torch.float64)


@pytest.mark.parametrize("gla_bias", ["keep", "scale", "drop"])
def test_realignment_row_by_row(head, gla_bias):
    weight, bias = head
    got_weight, got_bias = realign_global(weight, bias, 1.7, gla_bias)
    for c in range(6):
        norm = sum(float(w) ** 2 for w in weight[c]) ** 0.5
        expected = {"keep": bias[c], "scale": bias[c] * 1.7 / norm, "drop": 0.0 * bias[c]}[gla_bias]
        torch.testing.assert_close(got_bias[c], expected)
        for i in range(9):
            assert float(got_weight[c, i]) == pytest.approx(float(weight[c, i]) * 1.7 / norm, rel=1e-12)
    torch.testing.assert_close(got_weight.float().norm(dim=1), torch.full((6,), 1.7), rtol=0, atol=1e-5)


def test_personal_realignment_row_by_row(head):
    weight, _ = head
    local = torch.randn(6, 9, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    for c, row in enumerate(realign_personal(weight, local)):
        norm = sum(float(w) ** 2 for w in local[c]) ** 0.5
        assert row.tolist() == pytest.approx([norm * float(w) for w in weight[c]], rel=1e-12)


def test_a_round_is_three_separate_optimisers():
    """Literally: features from before the step; backbone, psi, phi in turn; momentum afresh each round."""
    setting = {"rounds": 2, "training.epochs": 2, "training.precision": "float64", "strategy.sparsity": 0.4}
    run = begin("fedloge", setting)
    config, server = run.simulation.config, run.simulation.server
    phis = [torch.nn.Linear(32, 10).double() for _ in range(4)]
    for client, phi in enumerate(phis):
        start = run.simulation.worker.client.personal(client, server.first).params
        phi.load_state_dict({"weight": start["local.weight"], "bias": start["local.bias"]})
    theta, sizes = run.tensors, run.simulation.data.partition.sizes
    for server_round in (1, 2):
        total = {name: torch.zeros_like(value, dtype=torch.float64) for name, value in theta.items()}
        for client, phi in enumerate(phis):
            model = run.simulation.new_model(config)
            model.load_state_dict(theta)
            psi = model.classifier
            backbone, for_psi, for_phi = (
                torch.optim.SGD(part.parameters(), lr=config.training.lr, momentum=config.training.momentum)
                for part in (model.features, psi, phi)
            )
            for x, y in batches_of(run, client, server_round):
                features = model.features(x)
                backbone.zero_grad()
                F.cross_entropy(features @ server.etf.T, y).backward()
                backbone.step()
                for optimizer, classifier in ((for_psi, psi), (for_phi, phi)):
                    optimizer.zero_grad()
                    F.cross_entropy(classifier(features.detach()), y).backward()
                    optimizer.step()
            for name, value in model.state_dict().items():
                total[name] += value * (int(sizes[client]) / int(sizes.sum()))
        theta = {n: v if theta[n].is_floating_point() else v.round().to(theta[n].dtype) for n, v in total.items()}
        run.advance(1)
        for name, value in theta.items():
            torch.testing.assert_close(run.tensors[name], value, rtol=1e-9, atol=1e-11)
        for client, phi in enumerate(phis):
            torch.testing.assert_close(run.personal(client)["local.weight"], phi.weight.detach(), rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(run.personal(client)["local.bias"], phi.bias.detach(), rtol=1e-9, atol=1e-11)


# (b) limits


class OneHead(FedLoGeClient):
    """V replaced by a head that is trained with theta; neither psi nor phi."""

    def personal(self, client, start):
        return State({}, {})

    def loss(self, params, buffers, extras, batch):
        f = self.model.features(params, buffers, batch.x, train=True)
        return batch.cross_entropy(self.model.classify(params, f)), {}


def test_with_one_trainable_head_it_is_fedavg():
    with halves("fedloge", client=OneHead):
        got = finished("fedloge", {"clients": 5, "cohort": 3}).tensors
    assert_same_bits(got, finished("fedavg", {"clients": 5, "cohort": 3}).tensors)


def test_personal_heads_of_norm_one_leave_psi(head):
    weight, _ = head
    local = F.normalize(torch.randn(6, 9, generator=torch.Generator().manual_seed(2), dtype=torch.float64))
    torch.testing.assert_close(realign_personal(weight, local), weight)

    class NoLocalHead(FedLoGeClient):
        """phi = 0 where it predicts, of norm 1 where its norms are asked for."""

        def heads(self, state, constants, x):
            norms = state.params["local.weight"].norm(dim=1)
            psi = state.params["classifier.weight"] / norms[:, None]
            of_norm_one = super().heads(State({**state.params, "classifier.weight": psi}, state.buffers), constants, x)
            out = super().heads(state, constants, x)
            return {"pm": of_norm_one["pm"] - of_norm_one["phi"], "psi": out["psi"]}

    with halves("fedloge", client=NoLocalHead):
        metrics = begin("fedloge", {"rounds": 1}).advance(1)
    assert metrics["clients/accuracy_masked"] == metrics["clients_psi/accuracy_masked"]
    assert metrics["clients/accuracy_unmasked"] == metrics["clients_psi/accuracy_unmasked"]


# (c) invariants


def test_the_realigned_model_does_not_know_row_norms_or_the_constant(head):
    weight, bias = head
    f = torch.randn(200, 9, generator=torch.Generator().manual_seed(3), dtype=torch.float64)

    def predict(weight, target):
        return F.linear(f, *realign_global(weight, bias, target, "drop")).argmax(1)

    expected = predict(weight, 1.7)
    assert torch.equal(predict(weight, 0.3), expected)
    assert torch.equal(predict(weight * torch.logspace(-3, 3, 6)[:, None], 1.7), expected)
    assert not torch.equal(F.linear(f, weight * torch.logspace(-3, 3, 6)[:, None]).argmax(1), expected)


def test_each_loss_moves_its_own_part_only():
    run = begin("fedloge")
    client, server = run.simulation.worker.client, run.simulation.server
    state = server.first.merged(client.personal(0, server.first))
    params = {name: value.clone().requires_grad_() for name, value in state.params.items()}
    batch = Batch(*next(batches_of(run, 0, 1)))

    def gradients(term):
        total, metrics = client.loss(params, dict(state.buffers), Extras({}, {"etf": server.etf}), batch)
        loss = metrics.get(term, total)
        found = torch.autograd.grad(loss, list(params.values()), allow_unused=True)
        return {name: g for name, g in zip(params, found, strict=True) if g is not None}

    parts = {"loss_etf": "features.", "loss_global": "classifier.", "loss_local": "local."}
    everything = gradients("the sum")
    assert everything.keys() == params.keys()
    for term, prefix in parts.items():
        own = gradients(term)
        assert set(own) == {name for name in params if name.startswith(prefix)}  # for others not 0 but no path at all
        assert all(torch.equal(own[name], everything[name]) for name in own)


class OtherPhi(FedLoGeClient):
    def personal(self, client, start):
        params, buffers = super().personal(client + 1000, start)
        return State(params, buffers)


class OtherPsi(FedLoGeServer):
    def initial(self):
        rng = torch.Generator().manual_seed(99)
        start = super().initial()
        return {n: torch.randn(v.shape, generator=rng) if n.startswith("classifier.") else v for n, v in start.items()}


@pytest.mark.parametrize("changed", [{"client": OtherPhi}, {"server": OtherPsi}], ids=["phi", "psi"])
def test_the_heads_that_clients_train_do_not_move_the_backbone(changed):
    plain = finished("fedloge")
    with halves("fedloge", **changed):
        other = finished("fedloge")
    theta = [name for name in plain.tensors if name.startswith("features.")]
    assert_same_bits({n: other.tensors[n] for n in theta}, {n: plain.tensors[n] for n in theta})
    psi_moved = not torch.equal(other.tensors["classifier.weight"], plain.tensors["classifier.weight"])
    phi_moved = not torch.equal(other.personal(0)["local.weight"], plain.personal(0)["local.weight"])
    assert (psi_moved, phi_moved) == ("server" in changed, "client" in changed)


def test_the_frame_stays_and_local_heads_stay_at_home():
    run = begin("fedloge")
    frame = run.simulation.server.etf.clone()
    assert names_sent(run) == set(run.simulation.server.initial())
    run.advance(2)
    assert torch.equal(run.simulation.server.constants()["etf"], frame)
    assert int((frame == 0).sum()) == int(0.6 * frame.numel())
    kept = [run.personal(client)["local.weight"] for client in range(4)]
    assert all(not torch.equal(kept[0], other) for other in kept[1:])


def test_a_personal_model_never_predicts_a_class_that_its_client_lacks():
    class Biased(FedLoGeClient):
        """Prefers every class to all before it, by far."""

        def heads(self, state, constants, x):
            return {"pm": super().heads(state, constants, x)["pm"] + 1e6 * torch.arange(10)}

    with halves("fedloge", client=Biased):
        run = begin("fedloge", {"clients": 8, "rounds": 1, "data.partition.alpha": 0.2})
        metrics = run.advance(1)
    data = run.simulation.data
    counts = data.partition.label_counts(data.dataset.y_train, 10)
    last = [np.flatnonzero(row)[-1] for row in counts]
    assert min(last) < 9  # else nothing is masked
    tests = [data.dataset.y_test[rows] for rows in data.client_test]
    expected = [(labels == c).mean() for labels, c in zip(tests, last, strict=True) if len(labels)]
    assert metrics["clients/accuracy"] == pytest.approx(np.mean(expected))
    assert metrics["clients/accuracy_unmasked"] == pytest.approx(np.mean([(t == 9).mean() for t in tests if len(t)]))


@pytest.mark.parametrize("gla_bias", ["keep", "drop"])
def test_the_exported_model_is_the_realigned_one(gla_bias):
    run = finished("fedloge", {"strategy.gla_bias": gla_bias})
    exported = run.simulation.server.export(run.tensors)
    torch.testing.assert_close(exported["classifier.weight"].norm(dim=1), torch.full((10,), 1.7))
    model = run.simulation.new_model(run.simulation.config)
    model.load_state_dict(exported)
    model.eval()
    scores = TestSet(run.simulation.data.dataset, torch.device("cpu")).score(lambda x: {"plain": model(x)})
    gm = run.simulation.scores(run.tensors)["gm"]
    assert next(iter(run.simulation.scores(run.tensors))) == "gm"
    assert scores["plain"].accuracy == gm.accuracy
    assert scores["plain"].loss == pytest.approx(gm.loss, rel=1e-6)


def test_together_and_one_by_one_agree():
    assert_cohorts_agree("fedloge")


# (d) state


def test_a_client_goes_on_with_the_head_it_left(monkeypatch):
    cohorts = {1: [0, 1], 2: [1, 2], 3: [2, 3], 4: [1, 3], 5: [0, 2]}
    given = {}
    train = Trainer.train

    def spy(self, start, constants, works, server_round):
        given.update({(server_round, work.client): work.personal.params for work in works})
        return train(self, start, constants, works, server_round)

    rounds = iter(cohorts.values())
    monkeypatch.setattr(fedsim.runs.simulation, "draw_cohort", lambda *_: next(rounds))
    monkeypatch.setattr(Trainer, "train", spy)
    run = begin("fedloge", {"cohort": 2, "rounds": 5, "eval_clients": "none"})
    run.advance(1)
    left = {name: value.clone() for name, value in run.personal(0).items()}
    assert not torch.equal(left["local.weight"], given[1, 0]["local.weight"])
    run.advance(3)
    run.advance(1)
    assert_same_bits(given[5, 0], left)
    assert not torch.equal(run.personal(0)["local.weight"], left["local.weight"])


def test_heads_come_back_from_a_checkpoint(tmp_path):
    run = finished("fedloge")
    run.simulation.checkpoint(run.state, run.engine).save(tmp_path)
    back = begin("fedloge", None, load_latest(tmp_path))
    for client in range(4):
        assert_same_bits(back.personal(client), run.personal(client))
    assert_same_bits(back.tensors, run.tensors)
    assert torch.equal(back.simulation.server.etf, run.simulation.server.etf)


# (e) against the baselines


@pytest.mark.slow
def test_the_behaviour_on_long_tailed_digits():
    script = Path(__file__).parents[2] / "scripts" / "fedloge_digits.py"
    done = subprocess.run([sys.executable, script, "--only-fedloge"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
