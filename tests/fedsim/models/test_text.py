"""Models of text, against independent implementations that hold the same weights."""

import torch
from torch import nn

from fedsim.models import ModelConfig
from fedsim.models.build import build_model
from fedsim.models.text import CausalFeatures, LstmFeatures


def test_an_lstm_is_that_of_torch() -> None:
    features = build_model(ModelConfig(name="lstm", width=5, depth=2), (7,), 9, seed=0).double().features
    assert isinstance(features, LstmFeatures)
    twin = nn.LSTM(8, 5, num_layers=2, batch_first=True).double()
    for number, layer in enumerate(features.layers):
        weights = {"weight_ih": layer.weight_ih, "weight_hh": layer.weight_hh, "bias_ih": layer.bias}
        for name, value in (weights | {"bias_hh": torch.zeros_like(layer.bias)}).items():
            getattr(twin, f"{name}_l{number}").data.copy_(value)
    tokens = torch.randint(9, (3, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(features(tokens), twin(features.embedding(tokens))[0][:, -1])


def test_no_character_sees_a_later_one() -> None:
    features = build_model(ModelConfig(name="transformer", width=8, heads=2), (7,), 9, seed=0).eval().features
    assert isinstance(features, CausalFeatures)
    tokens = torch.randint(9, (3, 7), generator=torch.Generator().manual_seed(0))
    other = tokens.clone()
    other[:, 4:] = (tokens[:, 4:] + 1) % 9
    one, two = features.tokens(tokens), features.tokens(other)
    assert torch.equal(one[:, :4], two[:, :4])
    assert (one[:, 4:] != two[:, 4:]).any(-1).all()
