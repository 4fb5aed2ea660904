import copy

import pytest
import torch
import torch.nn.functional as F

from strategies.moon import model_contrastive
from tests.strategies.small_runs import (
    assert_cohorts_agree,
    assert_same_bits,
    batches_of,
    begin,
    cohort_of,
    finished,
    names_sent,
)

EXACT = {"training.precision": "float64"}


def test_the_contrastive_loss_sample_by_sample():
    rng = torch.Generator().manual_seed(0)
    z, z_glob, z_prev = torch.randn(3, 6, 9, generator=rng, dtype=torch.float64)
    got = model_contrastive(z, z_glob, z_prev, 0.5)

    def sim(a, b):
        return float(a @ b) / (float(a @ a) * float(b @ b)) ** 0.5

    for b in range(6):
        near, far = (torch.tensor(sim(z[b], other[b]) / 0.5).exp() for other in (z_glob, z_prev))
        assert float(got[b]) == pytest.approx(float(-(near / (near + far)).log()), rel=1e-6)


def test_features_that_are_all_zero_have_a_gradient():
    z = torch.zeros(2, 5, requires_grad=True)
    (gradient,) = torch.autograd.grad(model_contrastive(z, torch.ones(2, 5), -torch.ones(2, 5), 0.5).sum(), z)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_rounds_are_the_papers_written_out(norm):
    mu, tau = 2.0, 0.3
    setting = {"cohort": 3, "rounds": 3, "model.norm": norm, "training.epochs": 2}
    run = begin("moon", {**EXACT, **setting, "strategy.mu": mu, "strategy.temperature": tau})
    w = run.simulation.new_model(run.simulation.config)
    previous, sizes = {}, run.simulation.data.partition.sizes
    for server_round in (1, 2, 3):
        cohort = cohort_of(run, server_round)
        trained = []
        for k in cohort:
            model, last = copy.deepcopy(w), previous.get(k, w)
            glob, last = copy.deepcopy(w), copy.deepcopy(last)  # batch norm writes to them
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
            for x, y in batches_of(run, k, server_round):
                z = model.features(x)
                with torch.no_grad():
                    z_glob, z_prev = glob.features(x), last.features(x)
                near, far = (torch.cosine_similarity(z, other, dim=1) / tau for other in (z_glob, z_prev))
                l_con = F.cross_entropy(torch.stack([near, far], 1), torch.zeros(len(x), dtype=torch.int64))
                optimizer.zero_grad()
                (F.cross_entropy(model.classifier(z), y) + mu * l_con).backward()
                optimizer.step()
            previous[k] = model
            trained.append(model.state_dict())
        shares = sizes[cohort] / sizes[cohort].sum()
        means = {n: sum(float(s) * t[n] for s, t in zip(shares, trained, strict=True)) for n in w.state_dict()}
        w = copy.deepcopy(w)
        w.load_state_dict(means)
    run.advance(3)
    for name, value in w.state_dict().items():
        if value.is_floating_point():
            torch.testing.assert_close(run.tensors[name], value, rtol=1e-8, atol=1e-10)
    for k, model in previous.items():
        for name, value in model.features.named_parameters():
            kept = run.personal(k)[f"previous.features.{name}"]
            torch.testing.assert_close(kept, value.detach(), rtol=1e-8, atol=1e-10)


def test_without_contrast_and_in_the_first_round_it_is_fedavg():
    assert_same_bits(finished("moon", {"strategy.mu": 0.0}).tensors, finished("fedavg").tensors)
    first, fedavg = (finished(name, {**EXACT, "rounds": 1}) for name in ("moon", "fedavg"))
    for name, value in fedavg.tensors.items():
        torch.testing.assert_close(first.tensors[name], value, rtol=1e-9, atol=1e-11)


def test_previous_models_never_travel():
    run = begin("moon")
    assert names_sent(run) == set(run.simulation.server.initial())


def test_together_and_one_by_one_agree():
    assert_cohorts_agree("moon")
