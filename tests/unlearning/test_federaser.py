"""FedEraser: calibration in full and in part, and by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.runs.history import norm
from tests.unlearning.federations import apply, federation, largest_gap, train
from unlearning.federaser import rescaled
from unlearning.pipeline.source import Source


# BatchNorm over batches of ten makes 1e-4 of a rounding in float32.
@pytest.mark.parametrize("options", [{}, {"model": {"name": "mlp", "norm": "batch"}, "training.precision": "float64"}])
@pytest.mark.parametrize("scale", ["client", "layer"])
def test_with_nobody_to_forget_full_calibration_replays_the_run(
    tmp_path: Path, options: dict[str, Any], scale: str
) -> None:
    source = train(tmp_path, **options, **{"training.epochs": 2})
    tensors = apply("federaser", federation(source), calibration=1.0, scale=scale)
    assert largest_gap(tensors, source.model.state_dict()) <= 1e-6
    half = apply("federaser", federation(source), calibration=0.5, scale=scale)
    assert largest_gap(half, source.model.state_dict()) > 1e-3


def test_calibration_is_a_share_of_steps_or_epochs(tmp_path: Path) -> None:
    steps = train(tmp_path / "steps", **{"training.steps": 4})
    few, many = (apply("federaser", federation(steps, 1), calibration=share) for share in (0.25, 1.0))
    assert largest_gap(few, many) > 1e-3
    epochs = train(tmp_path / "epochs", **{"training.epochs": 2})
    with pytest.raises(FedsimError, match=r"0.1 of 2 epochs is less than one; give at least 0.5"):
        apply("federaser", federation(epochs, 1), calibration=0.1)


def test_federaser_by_hand(kept: Source) -> None:
    """The first round as stored, then unit directions times stored lengths, weighted by samples."""
    fed = federation(kept, 1)
    rounds = fed.rounds
    stored = {client: rounds[0].sent(client) for client in rounds[0].staying}
    total = sum(sent.metrics["weight"] for sent in stored.values())
    theta = {
        name: sum(s.metrics["weight"] / total * s.tensors[name] for s in stored.values()) for name in rounds[0].model()
    }
    for kept_round in rounds[1:]:
        old, step = kept_round.model(), {name: torch.zeros_like(value) for name, value in theta.items()}
        weights = {client: kept_round.clients[client].weight or 0 for client in kept_round.staying}
        for client, sent in fed.train(theta, kept_round.number, kept_round.staying):
            fresh = {name: sent.tensors[name] - theta[name] for name in theta}
            length = norm({name: kept_round.sent(client).tensors[name] - old[name] for name in theta})
            for name, value in fresh.items():
                step[name] += weights[client] / sum(weights.values()) * length * value / norm(fresh)
        theta = {name: value + step[name] for name, value in theta.items()}
    assert largest_gap(apply("federaser", federation(kept, 1), calibration=1.0), theta) <= 1e-5


def test_lengths_are_of_a_client_or_of_each_tensor() -> None:
    stored, fresh = ({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])} for _ in range(2))
    fresh = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0, 0.0])}
    whole, each = (rescaled(stored, fresh, scale) for scale in ("client", "layer"))
    assert torch.allclose(whole["a"], torch.tensor([0.0, 5 / 2**0.5]))
    assert torch.allclose(each["a"], torch.tensor([0.0, 3.0]))
    assert torch.allclose(each["b"], torch.tensor([4.0, 0.0]))
    still = {name: torch.zeros_like(value) for name, value in fresh.items()}
    assert all(value.isfinite().all() for value in rescaled(stored, still, "layer").values())
