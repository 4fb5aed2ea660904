import pytest
import torch

from fedsim.config.run import TrainingConfig
from fedsim.training.optimizers import Optimizer, gradient_weight


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.0, False), (0.5, False), (0.9, False), (0.5, True), (0.9, True)])
def test_gradients_are_counted_as_often_as_momentum_applies_them(momentum, nesterov):
    expected = []
    for steps in (0, 1, 2, 7):
        weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum, nesterov=nesterov)
        for _ in range(steps):  # every gradient is 1, so that it has moved by how often they were applied
            optimizer.zero_grad()
            weight.backward()
            optimizer.step()
        expected.append(-weight.item())
    got = gradient_weight(torch.tensor([0.0, 1, 2, 7]), momentum, nesterov)
    assert got.tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    ("options", "theirs"),
    [
        ({"momentum": 0.9, "nesterov": True, "weight_decay": 0.1}, torch.optim.SGD),
        ({"momentum": 0.5}, torch.optim.SGD),
        ({"optimizer": "adam", "weight_decay": 0.1}, torch.optim.Adam),
        ({"optimizer": "adamw", "weight_decay": 0.1}, torch.optim.AdamW),
    ],
)
def test_steps_of_stacked_clients_are_torchs_at_the_rate_of_the_round(options, theirs):
    config = TrainingConfig.model_validate({"lr": 0.3, "schedule": {"name": "exponential", "decay": 0.5}, **options})
    draws = torch.Generator().manual_seed(0)
    start = torch.randn(2, 3, 4, generator=draws)
    grads = torch.randn(5, 2, 3, 4, generator=draws)
    ours = {"w": start.clone()}
    optimizer = Optimizer(config, ours, server_round=3)
    for number, grad in enumerate(grads):
        optimizer.step(ours, [grad], optimizer.state, number)
    for lane in range(2):
        weight = torch.nn.Parameter(start[lane].clone())
        own = {name: value for name, value in options.items() if name != "optimizer"}
        reference = theirs([weight], lr=0.3 * 0.25, **own)
        for grad in grads:
            weight.grad = grad[lane].clone()
            reference.step()
        torch.testing.assert_close(ours["w"][lane], weight.detach(), rtol=1e-6, atol=1e-6)
