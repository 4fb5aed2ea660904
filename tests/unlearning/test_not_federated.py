"""NoT in the federation: layers are negated, then rounds of those that stay."""

import torch

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
