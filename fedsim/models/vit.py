"""A small vision transformer (arXiv:2010.11929).

It is not taken from torchvision: `nn.MultiheadAttention` uses a fused kernel that `torch.func.vmap` cannot batch, so
clients would run one after another.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Features


class Attention(nn.Module):
    """Multi-head self-attention as plain matrix products; with `causal`, a token attends to itself and earlier ones."""

    def __init__(self, dim: int, heads: int = 4, *, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)  # each (B, heads, T, d)
        scores = q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5
        if self.causal:
            scores = scores.masked_fill(torch.ones_like(scores, dtype=torch.bool).triu(1), -torch.inf)
        mixed: Tensor = self.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(-2))
        return mixed


class EncoderBlock(nn.Module):
    """Attention and a two-layer MLP, each after a layer norm and with a skip connection."""

    def __init__(
        self, dim: int, dropout: float, heads: int = 4, hidden: int | None = None, *, causal: bool = False
    ) -> None:
        super().__init__()
        hidden = 2 * dim if hidden is None else hidden
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim, heads, causal=causal), nn.Dropout(dropout))
        self.mlp = nn.Sequential(
            *(nn.LayerNorm(dim), nn.Linear(dim, hidden), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(hidden, dim), nn.Dropout(dropout)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        x = x + self.attention(x)
        tokens: Tensor = x + self.mlp(x)
        return tokens


class TransformerFeatures(nn.Module):
    """Patches become tokens after a class token, then encoder blocks; the class token is the feature vector."""

    def __init__(
        self, channels: int, tokens: int, patch: int, dim: int, dropout: float, block: Callable[[], nn.Module],
        depth: int,
    ) -> None:  # fmt: skip
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, dim))
        self.positions = nn.Parameter(torch.empty(1 + tokens, dim))
        self.reset_parameters()
        self.encoder = nn.Sequential(nn.Dropout(dropout), *(block() for _ in range(depth)), nn.LayerNorm(dim))

    def reset_parameters(self) -> None:
        """Draw this module's own parameters anew, not those of its layers."""
        nn.init.zeros_(self.class_token)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, dim)."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1) + self.positions
        features: Tensor = self.encoder(tokens)[:, 0]
        return features


def vit(
    input_shape: tuple[int, ...], width: int = 64, dropout: float = 0.0, depth: int = 4, heads: int = 4,
    patch: int | None = None, mlp_ratio: float = 2.0,
) -> Features:  # fmt: skip
    """Return a transformer of `depth` blocks and `heads` heads on square patches.

    By default patches are 4x4, and 2x2 for images smaller than 16x16. The MLPs have `mlp_ratio` times `width` hidden
    units.

    Raises
    ------
    FedsimError
        If `width` is no multiple of `heads`, the patches do not fit the image, or `mlp_ratio` leaves no hidden unit.
    """
    channels, height, image_width = input_shape
    patch = patch or (4 if min(height, image_width) >= 16 else 2)
    if width % heads:
        raise FedsimError(f"model.width: vit needs a multiple of its {heads} heads; got {width}")
    if height % patch or image_width % patch:
        raise FedsimError(f"model.patch: vit needs image sides divisible by {patch}; got {height}x{image_width}")
    hidden = round(mlp_ratio * width)
    if hidden < 1:
        raise FedsimError(f"model.mlp_ratio: must leave at least one hidden unit; got {mlp_ratio:g}")
    tokens = (height // patch) * (image_width // patch)
    block = partial(EncoderBlock, width, dropout, heads, hidden)
    return TransformerFeatures(channels, tokens, patch, width, dropout, block, depth), width
