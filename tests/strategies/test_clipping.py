"""A norm is clipped over what is trained towards one end: other heads beside it change no step of the model.

All are clipped here, so ten times the gradient is the same step, but for rounding.
"""

from typing import Any

import pytest
import torch

from fedsim.federated.registry import describe, load_strategy
from tests.strategies.small_runs import Run, begin, halves

CLIPPED: dict[str, dict[str, Any]] = {
    "training.clip_norm": {"training.clip_norm": 0.05},
    "privacy.example": {"privacy.example": {"noise_multiplier": 0, "max_grad_norm": 0.05}},
}


def several(method: str) -> list[str]:
    """Return the ends that the global tensors of a method are trained towards, if there are several."""
    run = begin(method)
    phase = run.simulation.worker.client.phases()[0]
    ends = sorted({phase.objective(name) for name in run.simulation.server.first.params})
    return ends if len(ends) > 1 else []


PARTS = [(method, end) for method in sorted(describe("strategies")) for end in several(method)]


def louder(method: str, quiet: str) -> type:
    """Return a method's client half with ten times the gradients, of equal losses, of all but one objective."""
    client = load_strategy(method).client

    class Louder(client):  # type: ignore[misc, valid-type]
        def loss(self, params: Any, buffers: Any, extras: Any, batch: Any) -> Any:
            of = self.phases()[0].objective
            params = {n: v if of(n) == quiet else v + 9 * (v - v.detach()) for n, v in params.items()}
            return super().loss(params, buffers, extras, batch)

    return Louder


def advanced(method: str, overrides: dict[str, Any]) -> Run:
    run = begin(method, {"rounds": 1, "model.norm": "none", **overrides})
    run.advance(1)
    return run


def test_the_method_with_several_heads_is_among_them() -> None:
    assert {("fedloge", "features"), ("fedloge", "classifier")} <= set(PARTS)


@pytest.mark.parametrize("clipped", CLIPPED)
@pytest.mark.parametrize(("method", "quiet"), PARTS)
def test_larger_gradients_of_one_part_change_no_other_part(method: str, quiet: str, clipped: str) -> None:
    before = advanced(method, CLIPPED[clipped])
    with halves(method, client=louder(method, quiet)):
        after = advanced(method, CLIPPED[clipped])
    of = before.simulation.worker.client.phases()[0].objective
    ours = [name for name in before.simulation.server.first.params if of(name) == quiet]
    assert ours
    for name in ours:
        assert not torch.equal(before.tensors[name], before.simulation.server.first.params[name]), name
        torch.testing.assert_close(after.tensors[name], before.tensors[name], rtol=0, atol=1e-5, msg=name)
