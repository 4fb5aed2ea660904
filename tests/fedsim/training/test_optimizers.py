import pytest
import torch

from fedsim.training.optimizers import gradient_weight


@pytest.mark.parametrize("momentum", [0.0, 0.5, 0.9])
def test_gradients_are_counted_as_often_as_momentum_applies_them(momentum):
    expected = []
    for steps in (0, 1, 2, 7):
        weight = torch.zeros((), dtype=torch.float64, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=1.0, momentum=momentum)
        for _ in range(steps):  # every gradient is 1, so that it has moved by how often they were applied
            optimizer.zero_grad()
            weight.backward()
            optimizer.step()
        expected.append(-weight.item())
    assert gradient_weight(torch.tensor([0.0, 1, 2, 7]), momentum).tolist() == pytest.approx(expected, rel=1e-12)
