import pytest
import torch
import torch.nn.functional as F

from fedsim.errors import FedsimError
from tests.strategies.small_runs import assert_cohorts_agree, batches_of, begin, cohort_of, finished

EXACT = {"model.norm": "none", "training.precision": "float64"}


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_rounds_are_the_papers_written_out(momentum):
    """a_k is found by counting how often each gradient enters the momentum steps."""
    lr = 0.05
    setting = {"cohort": 3, "rounds": 3, "training.lr": lr, "training.momentum": momentum, "training.epochs": 2}
    run = begin("fednova", {**EXACT, **setting})
    model = run.simulation.new_model(run.simulation.config)
    w = {name: value.detach().clone() for name, value in model.named_parameters()}
    sizes = run.simulation.data.partition.sizes
    for server_round in (1, 2, 3):
        cohort = cohort_of(run, server_round)
        d, tau = [], []
        for k in cohort:
            model.load_state_dict(w)
            gradients = []
            optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
            for inputs, labels in batches_of(run, k, server_round):
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                gradients.append({name: value.grad.clone() for name, value in model.named_parameters()})
                optimizer.step()
            a = [sum(momentum**j for j in range(len(gradients) - i)) for i in range(len(gradients))]
            tau.append(sum(a))
            d.append({name: sum(ai * g[name] for ai, g in zip(a, gradients, strict=True)) / sum(a) for name in w})
        assert len(set(tau)) > 1  # else it is FedAvg
        p = [float(sizes[k] / sizes[cohort].sum()) for k in cohort]
        tau_eff = sum(pk * tk for pk, tk in zip(p, tau, strict=True))
        w = {n: v - tau_eff * lr * sum(pk * dk[n] for pk, dk in zip(p, d, strict=True)) for n, v in w.items()}
    run.advance(3)
    for name, value in w.items():
        torch.testing.assert_close(run.tensors[name], value, rtol=1e-9, atol=1e-11)


def test_clients_of_equal_work_make_it_fedavg():
    equal = {**EXACT, "data.partition": "iid", "data.imbalance_factor": 1.0, "data.max_per_class": 8}
    fedavg = finished("fedavg", equal)
    assert len(set(fedavg.simulation.data.partition.sizes)) == 1
    for name, value in finished("fednova", equal).tensors.items():
        torch.testing.assert_close(value, fedavg.tensors[name], rtol=1e-10, atol=1e-12)


def test_buffers_are_averaged():
    fedavg, fednova = (finished(name, {"rounds": 1}).tensors for name in ("fedavg", "fednova"))
    for name in ("features.2.running_mean", "features.2.num_batches_tracked"):
        assert torch.equal(fednova[name], fedavg[name])


def test_a_client_without_a_step_moves_nothing():
    run = finished("fednova", {"clients": 40, "data.max_per_class": 8, "data.partition.alpha": 0.2, "rounds": 2})
    assert 1 in run.simulation.data.partition.sizes
    assert all(value.isfinite().all() for value in run.tensors.values())


def test_together_and_one_by_one_agree():
    assert_cohorts_agree("fednova")


def test_only_sgd_is_understood():
    with pytest.raises(FedsimError, match=r"training\.optimizer: fednova reads gradients off the steps of SGD"):
        begin("fednova", {"training.optimizer": "adam"})
