"""The transformer in a federation: a chunk's clients at once are those clients one by one."""

from typing import Any

import pytest
import torch
from torch import nn

from fedsim.config.resolve import resolve
from fedsim.models.vit import Attention
from fedsim.runs.simulation import Simulation

RUN: dict[str, Any] = {
    "clients": 4, "rounds": 2, "seed": 3, "data.max_per_class": 12, "data.partition": "iid", "engine.name": "inprocess",
    "model": {"name": "vit", "width": 8, "depth": 2, "heads": 2, "patch": 2},
    "training.epochs": 1, "training.lr": 0.05, "training.precision": "float64", "training.batch_size": 8,
}  # fmt: skip


def trained(vectorize: str, **changes: Any) -> dict[str, torch.Tensor]:
    simulation = Simulation(resolve(RUN | {"training.vectorize": vectorize} | changes))
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(2):
        simulation.step(state, engine)
    return state.tensors


def test_fedavg_of_a_transformer_is_the_same_with_all_clients_at_once() -> None:
    first, one_by_one, at_once = Simulation(resolve(RUN)).begin().tensors, trained("never"), trained("always")
    for name, value in one_by_one.items():
        assert torch.allclose(at_once[name], value, rtol=0, atol=1e-10), name
        assert not torch.equal(value, first[name])


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_that_of_torch(causal: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    attention, twin = Attention(24, causal=causal).double(), nn.MultiheadAttention(24, 4, batch_first=True).double()
    for parameter in attention.parameters():
        nn.init.normal_(parameter, generator=generator)
    weights = [tensor.clone() for tensor in attention.state_dict().values()]
    twin.load_state_dict(dict(zip(twin.state_dict(), weights, strict=True)))
    x = torch.randn(3, 7, 24, dtype=torch.float64, generator=generator)
    mask = nn.Transformer.generate_square_subsequent_mask(7, dtype=torch.float64) if causal else None
    torch.testing.assert_close(attention(x), twin(x, x, x, need_weights=False, attn_mask=mask)[0])
