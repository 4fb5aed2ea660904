"""Each formula against its twin written out, a round against a literal loop, and the traps of the method."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fedsim.federated.types import Batch, Extras, State, Update
from fedsim.training.batches import plan_batches
from fedsim.training.objectives import kl_divergence
from strategies.fedlabel import FedLabelClient, FedLabelConfig, assimilate, confidence
from tests.strategies.small_runs import assert_same_bits, begin, finished, halves

SMALL = {
    "data.max_per_class": 40, "data.imbalance_factor": 1.0, "data.labelled_fraction": 0.3, "model.norm": "none",
    "training.steps": 4, "training.precision": "float64", "training.momentum": 0.0,
}  # fmt: skip


def config(**options) -> FedLabelConfig:
    return FedLabelConfig(name="fedlabel", **options)


def logits_of(rows) -> torch.Tensor:
    return torch.tensor(rows, dtype=torch.float64).log()


def random_experts(n=400, classes=5, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (3 * torch.randn(n, classes, generator=g, dtype=torch.float64) for _ in range(2))


# Selection ------------------------------------------------------------------------------------------------------------


def test_the_more_confident_expert_by_variance_not_by_its_top_probability():
    s_g, s_l = [[0.5, 0.5, 0.0]], [[0.6, 0.2, 0.2]]
    keep, notes = assimilate(logits_of(s_g), logits_of(s_l), config(threshold=0.4, penalty=2.0))
    # ||s||^2 is 0.50 and 0.44, so h is 0.50/3 - 1/9 = 0.0556 and 0.44/3 - 1/9 = 0.0356, and their ratio 0.64.
    assert confidence(torch.tensor(s_g + s_l)).tolist() == pytest.approx([0.5 / 3 - 1 / 9, 0.44 / 3 - 1 / 9])
    assert (keep.item(), notes["local"].item(), notes["label"].item()) == (True, False, 0)
    assert notes["weight"].item() == pytest.approx(2.0 * 0.64)
    assert notes["log_other"].exp().tolist()[0] == pytest.approx(s_l[0])
    swapped = assimilate(logits_of(s_l), logits_of(s_g), config(threshold=0.4)).notes
    assert swapped["local"].item()
    assert swapped["log_other"].exp().tolist()[0] == pytest.approx(s_l[0])


def test_selection_and_weights_against_a_loop():
    global_logits, local_logits = random_experts()
    options = config(threshold=0.6, penalty=1.5)
    keep, notes = assimilate(global_logits, local_logits, options)
    for i, (s_g, s_l) in enumerate(zip(global_logits.softmax(1), local_logits.softmax(1), strict=True)):
        local = (s_l**2).sum() > (s_g**2).sum()
        star, other = (s_l, s_g) if local else (s_g, s_l)
        assert notes["local"][i] == local
        assert notes["label"][i] == star.argmax()
        assert keep[i] == (star.max() > 0.6)
        ratio = other.var() / star.var()  # of the sample: the factor N / (N - 1) cancels
        expected = 1.5 * ratio if other.argmax() == star.argmax() else 0.0
        assert float(notes["weight"][i]) == pytest.approx(float(expected), rel=1e-12)
        assert 0 <= notes["weight"][i] <= 1.5
    assert 0 < keep.sum() < len(keep)
    assert 0 < notes["local"].sum() < len(keep)
    assert 0 < (notes["weight"] > 0).sum() < len(keep)


def test_entropy_is_the_other_confidence():
    s = torch.tensor([[0.25, 0.75], [0.5, 0.5], [1.0, 0.0]], dtype=torch.float64)
    h = -(0.25 * math.log(0.25) + 0.75 * math.log(0.75))
    assert confidence(s, "entropy").tolist() == pytest.approx([1 - h / math.log(2), 0.0, 1.0])


def test_equal_experts_tie_to_the_global_one_with_the_full_weight():
    logits = next(random_experts())
    keep, notes = assimilate(logits, logits.clone(), config(threshold=0.0, penalty=0.7))
    assert keep.all()
    assert not notes["local"].any()
    assert torch.equal(notes["label"], logits.argmax(1))
    assert (notes["weight"] == 0.7).all()


def test_a_probability_at_the_threshold_is_left_out_and_uniform_experts_do_no_harm():
    uniform = torch.zeros(1, 2, dtype=torch.float64)
    assert not assimilate(uniform, uniform, config(threshold=0.5)).keep.item()
    kept = assimilate(uniform, uniform, config(threshold=0.49))
    assert kept.keep.item()
    assert kept.notes["label"].item() == 0  # the first class is a class, not a mark for "left out"
    assert kept.notes["weight"].isfinite().all()


@pytest.mark.parametrize("expert", ["local", "global"])
def test_an_expert_can_be_fixed(expert):
    global_logits, local_logits = random_experts()
    _, notes = assimilate(global_logits, local_logits, config(expert=expert))
    own, other = (local_logits, global_logits) if expert == "local" else (global_logits, local_logits)
    assert torch.equal(notes["label"], own.argmax(1))
    assert torch.equal(notes["log_other"], other.log_softmax(1))


# The loss of w_U ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def prepared():
    """Return a run, two experts' parameters, and samples with a strong view."""
    run = begin("fedlabel", SMALL)
    worker, g = run.simulation.worker, torch.Generator().manual_seed(0)
    w = {name: value.clone() for name, value in run.tensors.items()}
    w_l = {name: value + 0.1 * torch.randn(value.shape, generator=g).double() for name, value in w.items()}
    x = worker.train_set.batch(torch.arange(60), None)[0]
    return run, w, w_l, x, x + 0.3 * torch.randn(x.shape, generator=g).double()


def client_with(run, **options) -> FedLabelClient:
    base = run.simulation.config
    strategy = base.strategy.model_copy(update=options)
    return FedLabelClient(
        base.model_copy(update={"strategy": strategy}), run.simulation.new_model(base).to(torch.float64)
    )


def round_of(client, w, w_l, x, strong, w_u=None):
    """Return the batch after step 2, and the gradient by w_U of its loss at `w_u`, w by default."""
    begun = {**w_l, **{f"unlabelled.{name}": value for name, value in w.items()}}
    keep, notes = client.annotate(begun, {}, Extras(w, {}), x)
    batch = Batch(x, torch.full((len(x),), -1), None, strong, {**notes, "keep": keep})
    return batch, gradient(client, {**w_l, **{f"unlabelled.{n}": v for n, v in (w_u or w).items()}}, batch, w)


def gradient(client, params, batch, w):
    leaves = {name: value.clone().requires_grad_() for name, value in params.items()}
    loss, _ = client.unlabelled_loss(leaves, {}, Extras(w, {}), batch)
    grads = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return dict(zip(leaves, grads, strict=True))


def test_divergence_is_the_explicit_sum_both_ways():
    log_p, log_q = (logits.log_softmax(1) for logits in random_experts())
    for a, b in [(log_p, log_q), (log_q, log_p)]:
        explicit = sum(a[:, i].exp() * (a[:, i] - b[:, i]) for i in range(a.shape[1]))
        assert torch.allclose(kl_divergence(a, b), explicit, rtol=0, atol=1e-10)
    assert (kl_divergence(log_p, log_q) > 0).all()
    assert torch.allclose(kl_divergence(log_p, log_q), F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1))


@pytest.mark.parametrize("divergence", ["student", "expert"])
def test_gradient_where_the_divergence_begins(prepared, divergence):
    """At w_U = w the divergence from the global expert has no gradient, that from the local one has."""
    run, w, w_l, x, strong = prepared
    for expert, felt in [("local", False), ("global", True)]:
        client = client_with(run, expert=expert, threshold=0.0, penalty=1.0, divergence=divergence)
        batch, grads = round_of(client, w, w_l, x, strong)
        assert (batch.notes["weight"] > 0).any()
        assert all(grads[name] is None for name in w_l), "the experts get no gradient"
        leaves = {name: value.clone().requires_grad_() for name, value in w.items()}
        logits = client.model.logits(leaves, {}, strong, train=True)
        alone = torch.autograd.grad(F.cross_entropy(logits, batch.notes["label"]), list(leaves.values()))
        gap = max(
            float((grads[f"unlabelled.{name}"] - value).abs().max()) for name, value in zip(w, alone, strict=True)
        )
        assert (gap > 1e-4) if felt else (gap < 1e-10)


def test_the_loss_written_out(prepared):
    run, w, w_l, x, strong = prepared
    w_u = {name: value * 1.3 for name, value in w.items()}
    for divergence, given in itertools.product(("student", "expert"), ("clean", "strong")):
        client = client_with(run, threshold=0.15, penalty=0.8, divergence=divergence, divergence_input=given)
        batch, _ = round_of(client, w, w_l, x, strong)
        own = {f"unlabelled.{name}": value for name, value in w_u.items()}
        loss, _ = client.unlabelled_loss({**w_l, **own}, {}, Extras(w, {}), batch)

        def s(params, inputs, client=client):
            return client.model.logits(params, {}, inputs, train=False).softmax(1)

        total = 0.0
        for i in range(len(x)):
            g, loc = s(w, x[i : i + 1])[0], s(w_l, x[i : i + 1])[0]
            star, other = (loc, g) if (loc**2).sum() > (g**2).sum() else (g, loc)
            if star.max() > 0.15:
                label = star.argmax()
                total -= s(w_u, strong[i : i + 1])[0, label].log()
                if other.argmax() == label:
                    p = s(w_u, (x if given == "clean" else strong)[i : i + 1])[0]
                    a, b = (p, other) if divergence == "student" else (other, p)
                    total += 0.8 * other.var() / star.var() * (a * (a.log() - b.log())).sum()
        assert float(loss) == pytest.approx(float(total) / len(x), rel=1e-10)
        assert 0 < batch.notes["keep"].sum() < len(x)


def test_samples_below_the_threshold_and_disagreeing_experts_change_nothing(prepared):
    run, w, w_l, x, strong = prepared
    w_u = {name: value * 1.3 for name, value in w.items()}
    client = client_with(run, threshold=0.15, batches="all")
    batch, before = round_of(client, w, w_l, x, strong, w_u)
    below, disagree = ~batch.notes["keep"], batch.notes["weight"] == 0
    assert below.any()
    assert (disagree & ~below).any()
    own = {**w_l, **{f"unlabelled.{name}": value for name, value in w_u.items()}}
    blank = {name: torch.where(below[:, None, None, None], 9.0, value) for name, value in [("x", x), ("s", strong)]}
    after = gradient(client, own, batch._replace(x=blank["x"], strong=blank["s"]), w)
    no_divergence = torch.where((below | disagree)[:, None, None, None], 9.0, x)  # only the divergence looks at x
    clean = gradient(client, own, batch._replace(x=no_divergence), w)
    moved = gradient(client, own, batch._replace(x=torch.full_like(x, 9.0)), w)
    for name in w_u:
        key = f"unlabelled.{name}"
        assert torch.allclose(after[key], before[key], rtol=0, atol=1e-14)
        assert torch.allclose(clean[key], before[key], rtol=0, atol=1e-14)
    assert not torch.allclose(moved["unlabelled.classifier.weight"], before["unlabelled.classifier.weight"])


# The round ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batches", ["passed", "all"])
def test_a_round_is_the_algorithm_written_out(batches):
    """With pseudo-labels made anew for every batch: noting them once a round is the same."""
    options = {
        **SMALL, "clients": 2, "strategy.threshold": 0.5, "strategy.batches": batches, "strategy.strong.num_ops": 0
    }  # fmt: skip
    run = begin("fedlabel", {**options, "training.lr": 0.3})
    simulation, data, cfg = run.simulation, run.simulation.worker.train_set, run.simulation.config
    beta, b, tau = 0.5, cfg.training.batch_size, 4
    for server_round in (1, 2):
        w, sums, weights = copy.deepcopy(run.tensors), {}, 0
        for client in range(2):
            expert, student = (simulation.new_model(cfg) for _ in range(2))
            reference = simulation.new_model(cfg)
            for model in (expert, student, reference):
                model.load_state_dict(w)

            def batches_of(rows, phase, purpose, client=client, server_round=server_round):
                plan = plan_batches(
                    [rows], [client], (cfg.seed, server_round, phase),
                    epochs=1, batch_size=b, drop_single=False, steps=tau, purpose=purpose,
                )  # fmt: skip
                assert (plan.counts == min(b, len(rows))).all()
                assert plan.steps.tolist() == [tau]
                return [torch.from_numpy(index[0]) for index in plan.index]

            optimizer = torch.optim.SGD(expert.parameters(), lr=0.3)
            for rows in batches_of(simulation.data.partition[client], 0, "batches"):
                optimizer.zero_grad()
                F.cross_entropy(expert(data.batch(rows, None)[0]), data.y[rows]).backward()
                optimizer.step()

            def select(x, expert=expert, reference=reference):
                with torch.no_grad():
                    s_g, s_l = reference(x).softmax(1), expert(x).softmax(1)
                local = ((s_l**2).sum(1) > (s_g**2).sum(1))[:, None]
                return torch.where(local, s_l, s_g), torch.where(local, s_g, s_l)

            unlabelled = simulation.data.unlabelled[client]
            star, _ = select(data.batch(torch.from_numpy(unlabelled), None)[0])
            passed = (star.max(1).values > beta).numpy()
            assert 0 < passed.sum() < len(passed)
            optimizer = torch.optim.SGD(student.parameters(), lr=0.3)
            for rows in batches_of(unlabelled[passed] if batches == "passed" else unlabelled, 1, "unlabelled batches"):
                x = data.batch(rows, None)[0]
                star, other = select(x)
                label, p = star.argmax(1), student(x).softmax(1)
                weight = other.var(1) / star.var(1) * (other.argmax(1) == label)
                each = -p.log().gather(1, label[:, None])[:, 0] + weight * (p * (p.log() - other.log())).sum(1)
                optimizer.zero_grad()
                (each * (star.max(1).values > beta)).mean().backward()
                optimizer.step()
            r = len(simulation.data.partition[client]) + int(passed.sum())
            weights += r
            for name in w:
                delta = expert.state_dict()[name] - w[name] + student.state_dict()[name] - w[name]
                sums[name] = sums.get(name, 0.0) + r * delta
        run.advance(1)
        for name, value in run.tensors.items():
            assert torch.allclose(value, w[name] + sums[name] / weights, rtol=0, atol=1e-12), name


@pytest.mark.parametrize("norm", ["none", "batch"])
@pytest.mark.parametrize("vectorize", ["never", "always"])
def test_where_nothing_passes_it_is_fedavg_on_the_labelled_part(vectorize, norm):
    options = {**SMALL, "training.precision": "float32", "training.vectorize": vectorize, "model.norm": norm}
    ours = finished("fedlabel", {**options, "strategy.threshold": 1.0})
    assert_same_bits(ours.tensors, finished("fedavg", options).tensors)


def test_the_sum_of_both_updates_is_sent_with_the_number_of_samples_used():
    run = begin("fedlabel", {**SMALL, "clients": 2})
    client = run.simulation.worker.client
    g = torch.Generator().manual_seed(0)
    w = {name: value.double() for name, value in run.tensors.items()}
    d_l, d_u = ({n: torch.randn(2, *v.shape, generator=g).double() for n, v in w.items()} for _ in range(2))
    update = Update(
        sent={n: v + d_l[n] for n, v in w.items()},
        kept=State({f"unlabelled.{n}": v + d_u[n] for n, v in w.items()}, {}),
        weights=torch.tensor([9.0, 9.0], dtype=torch.float64), steps=torch.tensor([8.0, 8.0]),
        samples=torch.tensor([[1.0, 0.0], [1.0, 2.0]], dtype=torch.float64),
        drawn=torch.tensor([[4.0, 0.0], [4.0, 8.0]], dtype=torch.float64),
    )  # fmt: skip
    made = client.finish(update, Extras(w, {}))
    assert made.weights.tolist() == [1.0, 3.0]
    assert made.kept == State({}, {})
    pairs = [({n: v[i] for n, v in made.sent.items()}, float(made.weights[i])) for i in range(2)]
    for name, value in run.simulation.server.aggregate(iter(pairs)).items():
        expected = w[name] + (d_l[name][0] + d_u[name][0]) / 4 + 3 * (d_l[name][1] + d_u[name][1]) / 4
        assert torch.allclose(value, expected, rtol=0, atol=1e-12)
    drawn = client_with(run, count="drawn").finish(update, Extras(w, {}))
    assert drawn.weights.tolist() == [4.0, 12.0]


def test_variances_stay_positive_where_the_sum_of_changes_would_not():
    """v_L + v_U < v, so v_L + v_U - v is below 0; buffers are the branches' mean, w_L's where there is no other."""
    run = begin("fedlabel", {**SMALL, "model.norm": "batch", "clients": 2})
    client, v = run.simulation.worker.client, 5.0
    params = {n: t for n, t in run.tensors.items() if n in run.simulation.server.first.params}
    buffers = {n: torch.full((2, *t.shape), 1.0) for n, t in run.simulation.server.first.buffers.items()}
    both = {**{n: t.expand(2, *t.shape) for n, t in params.items()}, **buffers}
    w_u = State(
        {f"unlabelled.{n}": t.expand(2, *t.shape) for n, t in params.items()},
        {f"unlabelled.{n}": torch.stack([t[0] + 1, t[1] * v]) for n, t in buffers.items()},
    )
    drawn = torch.tensor([[4.0, 4.0], [4.0, 0.0]], dtype=torch.float64)
    made = client.finish(Update(both, w_u, drawn.sum(1), drawn.sum(1), drawn, drawn), Extras(params, {}))
    for name in buffers:
        assert (made.sent[name][0] == 1.5).all()
        assert (made.sent[name][1] == 1.0).all()


def test_training_the_student_leaves_the_local_expert_alone_buffers_too():
    class LabelledOnly(FedLabelClient):
        def phases(self):
            return super().phases()[:1]

    options = {**SMALL, "model.norm": "batch", "strategy.threshold": 0.0}
    trained = []
    for kind in (FedLabelClient, LabelledOnly):
        with halves("fedlabel", client=kind):
            run = begin("fedlabel", options)
        worker = run.simulation.worker
        start = run.simulation.server.split(run.tensors)
        jobs = [worker.job(client, worker.client.personal(client, start), 1) for client in range(4)]
        state = worker.trainer.train(start, {}, jobs, 1).state
        trained.append({n: v for part in state for n, v in part.items()})
    whole, first = trained
    ours = [name for name in whole if not name.startswith("unlabelled.")]
    assert_same_bits({n: whole[n] for n in ours}, {n: first[n] for n in ours})
    assert not torch.equal(whole["unlabelled.classifier.weight"], first["unlabelled.classifier.weight"])


def test_clients_keep_nothing():
    run = finished("fedlabel", SMALL)
    assert not [client for client in run.engine.states.committed() if run.engine.states[client].array_records]


@pytest.mark.parametrize("strategy", ["fedlabel", "fixmatch"])
@pytest.mark.parametrize("norm", ["group", "batch"])
def test_all_at_once_is_one_after_another(strategy, norm):
    options = {**SMALL, "model.norm": norm, "strategy.threshold": 0.5}
    alone, together = (
        finished(strategy, {**options, "training.vectorize": vectorize}) for vectorize in ("never", "always")
    )
    for name, value in alone.tensors.items():
        assert torch.allclose(together.tensors[name], value, rtol=0, atol=1e-9), name
    metrics = [run.state.metrics[0]["metrics"] for run in (alone, together)]
    for name in set(metrics[0]) - {"train/clients_per_s"}:
        assert metrics[1][name] == pytest.approx(metrics[0][name], rel=1e-6), name


def test_shares_and_accuracy_of_pseudo_labels_are_reported():
    run = begin("fedlabel", {**SMALL, "strategy.threshold": 0.4, "training.steps": 20})
    metrics = {name: value for name, value in run.advance(3).items() if "pseudo_labels" in name}
    local, global_, neither, right, accuracy = (
        metrics[f"train/pseudo_labels:{what}"] for what in ("local", "global", "neither", "right", "accuracy")
    )
    assert local + global_ + neither == pytest.approx(1.0)
    assert accuracy == pytest.approx(right / (local + global_))
    assert min(local, global_, neither) > 0
    assert 0.3 < accuracy < 1.0  # of ten classes
    for fixed, absent in [("local", "global"), ("global", "local")]:
        other = begin("fedlabel", {**SMALL, "strategy.expert": fixed, "strategy.penalty": 0.0})
        assert other.advance(2)[f"train/pseudo_labels:{absent}"] == 0.0
    assert np.isfinite(list(metrics.values())).all()
