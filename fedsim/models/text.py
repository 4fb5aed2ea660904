"""Models of text: from characters (B, L) int64 to the features that predict the next character.

They use plain operations, because torch's own recurrent layers and `nn.MultiheadAttention` use fused kernels that
`torch.func.vmap` cannot batch.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Features
from fedsim.models.vit import EncoderBlock

_EMBEDDING = 8  # dimensions of a character's embedding, as in LEAF


class LstmLayer(nn.Module):
    """One layer of an LSTM (Hochreiter and Schmidhuber 1997), with the gates and weights of `torch.nn.LSTM`."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw all parameters anew, uniformly up to 1 / sqrt(hidden), as torch does."""
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -1 / math.sqrt(self.hidden), 1 / math.sqrt(self.hidden))

    def forward(self, x: Tensor) -> Tensor:
        """Map a sequence (B, L, inputs) to the hidden states after each step, (B, L, hidden)."""
        entering = nn.functional.linear(x, self.weight_ih, self.bias).unbind(1)
        h = c = torch.zeros_like(entering[0][:, : self.hidden])
        states = []
        for step in entering:
            i, f, g, o = (step + nn.functional.linear(h, self.weight_hh)).chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            states.append(h)
        return torch.stack(states, 1)


class LstmFeatures(nn.Module):
    """Embeds characters and applies the layers; the last layer's last state is the feature vector."""

    def __init__(self, characters: int, width: int, depth: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, _EMBEDDING)
        widths = (_EMBEDDING, *[width] * depth)
        self.layers = nn.ModuleList(LstmLayer(inputs, hidden) for inputs, hidden in pairwise(widths))
        self.dropout = nn.Dropout(dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        """Map characters (B, L) to (B, width)."""
        x = self.embedding(tokens.long())
        for layer in self.layers:
            x = self.dropout(layer(x))
        last: Tensor = x[:, -1]
        return last


def lstm(
    input_shape: tuple[int, ...], num_classes: int, width: int = 256, depth: int = 2, dropout: float = 0.0
) -> Features:
    """Return LEAF's network for Shakespeare (arXiv:1812.01097): embeddings of size 8, 2 layers of 256 units."""
    return LstmFeatures(num_classes, width, depth, dropout), width


class CausalFeatures(nn.Module):
    """A transformer in which a character attends to itself and earlier ones; the last token is the feature vector."""

    def __init__(
        self, characters: int, length: int, width: int, depth: int, heads: int, hidden: int, dropout: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, width)
        self.positions = nn.Parameter(torch.empty(length, width))
        self.reset_parameters()
        blocks = [EncoderBlock(width, dropout, heads, hidden, causal=True) for _ in range(depth)]
        self.encoder = nn.Sequential(nn.Dropout(dropout), *blocks, nn.LayerNorm(width))

    def reset_parameters(self) -> None:
        """Draw this module's own parameters anew, not those of its layers."""
        nn.init.normal_(self.positions, std=0.02)

    def tokens(self, tokens: Tensor) -> Tensor:
        """Map characters (B, L) to tokens (B, L, width); a token does not depend on later characters."""
        out: Tensor = self.encoder(self.embedding(tokens.long()) + self.positions[-tokens.shape[1] :])
        return out

    def forward(self, tokens: Tensor) -> Tensor:
        """Map characters (B, L) to (B, width)."""
        return self.tokens(tokens)[:, -1]


def transformer(
    input_shape: tuple[int, ...], num_classes: int, width: int = 64, dropout: float = 0.0, depth: int = 2,
    heads: int = 4, mlp_ratio: float = 4.0,
) -> Features:  # fmt: skip
    """Return a causal transformer (arXiv:1706.03762) with pre-layer-norm, as in GPT-2, and learned positions.

    Raises
    ------
    FedsimError
        If `width` is no multiple of `heads`, or `mlp_ratio` leaves no hidden unit.
    """
    if width % heads:
        raise FedsimError(f"model.width: transformer needs a multiple of its {heads} heads; got {width}")
    hidden = round(mlp_ratio * width)
    if hidden < 1:
        raise FedsimError(f"model.mlp_ratio: must leave at least one hidden unit; got {mlp_ratio:g}")
    return CausalFeatures(num_classes, input_shape[0], width, depth, heads, hidden, dropout), width
