"""How a server adds up what it gets."""

import pytest
import torch

from fedsim.errors import FedsimError
from tests.strategies.small_runs import begin


@pytest.mark.parametrize("method", ["fedavg", "fedadam", "krum", "qfedavg", "fednova", "scaffold"])
def test_the_server_goes_as_far_as_it_is_told(method):
    """w + lr (aggregate - w) of parameters, to the end of batch norm's statistics."""
    runs = {lr: begin(method, {"server.lr": lr, "clients": 8}) for lr in (1.0, 0.25)}
    start = runs[1.0].simulation.server.initial()
    for run in runs.values():
        run.advance(1)
    params = runs[1.0].simulation.server.first.params
    for name, whole in runs[1.0].tensors.items():
        expected = start[name] + 0.25 * (whole - start[name]) if name in params else whole
        torch.testing.assert_close(runs[0.25].tensors[name], expected)


def test_a_server_step_has_a_schedule_of_its_own():
    steps = {"server.schedule": {"name": "steps", "at": [1], "multiply": 1e-6}}
    run = begin("fedavg", steps)
    run.advance(1)
    first = {name: value.clone() for name, value in run.tensors.items()}
    run.advance(1)
    for name in run.simulation.server.first.params:
        torch.testing.assert_close(run.tensors[name], first[name], rtol=0, atol=1e-5)


def test_a_server_with_steps_of_its_own_takes_no_other():
    with pytest.raises(FedsimError, match=r"server.lr: the server of pfedhn has its own step"):
        begin("pfedhn", {"server.lr": 0.5})
