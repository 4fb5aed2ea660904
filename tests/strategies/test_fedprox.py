import torch

from tests.strategies.small_runs import assert_same_bits, batches_of, finished

ALONE = {"rounds": 1, "clients": 1, "model.norm": "none", "training.precision": "float64"}


def test_without_pull_it_is_fedavg():
    assert_same_bits(finished("fedprox", {"strategy.mu": 0.0}).tensors, finished("fedavg").tensors)


def test_one_client_is_sgd_with_the_pull_written_out():
    mu, lr = 0.4, 0.1
    run = finished("fedprox", {**ALONE, "strategy.mu": mu, "training.epochs": 3, "training.momentum": 0.0})
    model = run.simulation.new_model(run.simulation.config)
    start = {name: value.detach().clone() for name, value in model.named_parameters()}
    for x, y in batches_of(run, 0, 1):
        loss = torch.nn.functional.cross_entropy(model(x), y)
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        with torch.no_grad():
            for (name, parameter), gradient in zip(model.named_parameters(), gradients, strict=True):
                parameter -= lr * (gradient + mu * (parameter - start[name]))
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(run.tensors[name], parameter.detach(), rtol=1e-10, atol=1e-12)


def test_a_strong_pull_holds_the_model_near_its_start():
    def distance(mu):
        run = finished("fedprox", {"strategy.mu": mu, "rounds": 1, "training.momentum": 0.0, "training.epochs": 4})
        start = run.simulation.server.initial()
        return sum(float((run.tensors[n] - start[n]).square().sum()) for n in run.simulation.server.first.params)

    assert distance(9.0) < 0.5 * distance(1.0) < 0.5 * distance(0.0)
