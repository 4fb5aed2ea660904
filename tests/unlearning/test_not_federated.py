"""NoT in the federation: layers are negated, then rounds of those that stay."""

from dataclasses import replace

import torch

from fedsim.config.resolve import resolve
from tests.unlearning.federations import apply, federation, largest_gap
from unlearning.api.needs import Needs
from unlearning.pipeline.source import Source


def test_not_in_the_federation(kept: Source) -> None:
    still = apply("not_federated", federation(kept, 1, needs=Needs(clients=True)), rounds=0, layers=0)
    assert largest_gap(still, kept.model.state_dict()) == 0
    negated = apply("not_federated", federation(kept, 1), rounds=0)
    changed = {name for name, value in negated.items() if not torch.equal(value, still[name])}
    assert len(changed) == 2
    assert all(torch.equal(negated[name], -still[name]) for name in changed)
    fed = federation(kept, 1)
    assert largest_gap(apply("not_federated", fed, rounds=2), negated) > 1e-3
    assert (fed.costs()["rounds"], fed.costs()["clients_woken"]) == (2, 6)


def test_it_repairs_after_a_schedule_has_ended(kept: Source) -> None:
    """A cosine is at 0 when the run ends: what comes after it would learn nothing."""
    ended = resolve({**kept.config.model_dump(mode="json"), "training": {"schedule": "cosine"}})
    fed = federation(replace(kept, config=ended), 1)
    assert fed.config.training.lr_at(ended.rounds + 1) == 0
    theta = fed.final()
    assert largest_gap(fed.go_on(theta, 2), theta) > 1e-3
