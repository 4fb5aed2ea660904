"""FedAccum: stored updates add up to the model, and to the model without a client."""

from pathlib import Path
from typing import Any

import pytest

from tests.unlearning.federations import apply, federation, largest_gap, train
from unlearning.pipeline.source import Source


@pytest.mark.parametrize("options", [{}, {"model": {"name": "mlp", "norm": "batch"}}, {"strategy": "fedavgm"}])
def test_with_nobody_to_forget_the_stored_updates_add_up_to_the_model(tmp_path: Path, options: dict[str, Any]) -> None:
    source = train(tmp_path, **options)
    for renormalize in (True, False):
        tensors = apply("fedaccum", federation(source), renormalize=renormalize)
        assert largest_gap(tensors, source.model.state_dict()) <= 1e-6


def test_history_subtraction_is_the_model_less_the_weighted_updates(kept: Source) -> None:
    fed = federation(kept, 1)
    expected = {name: value.double() for name, value in fed.final().items()}
    for kept_round in fed.rounds:
        before, total = kept_round.model(), sum(share.weight or 0 for share in kept_round.clients.values())
        if 1 in kept_round.clients:
            sent, share = kept_round.sent(1), kept_round.clients[1].weight or 0
            for name in expected:
                expected[name] -= share / total * (sent.tensors[name].double() - before[name].double())
    assert largest_gap(apply("fedaccum", federation(kept, 1), renormalize=False), expected) <= 1e-6
    assert largest_gap(apply("fedaccum", federation(kept, 1)), expected) > 1e-3
