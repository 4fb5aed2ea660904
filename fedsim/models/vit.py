"""A small vision transformer (arXiv:2010.11929).

Written out rather than taken from torchvision: `nn.MultiheadAttention` ends in a fused kernel that `torch.func.vmap`
cannot batch and would run client after client.
"""

import torch
from torch import Tensor, nn

from fedsim.errors import FedsimError
from fedsim.models.base import Features

HEADS = 4
DEPTH = 4


class Attention(nn.Module):
    """Multi-head self-attention in plain matrix products."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(dim, 3 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        q, k, v = self.qkv(x).unflatten(-1, (3, HEADS, -1)).permute(2, 0, 3, 1, 4)  # each (B, HEADS, T, dim / HEADS)
        weights = (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5).softmax(-1)
        mixed: Tensor = self.out((weights @ v).transpose(1, 2).flatten(-2))
        return mixed


class EncoderBlock(nn.Module):
    """Attention and a two-layer perceptron, each behind a layer norm and beside a skip connection."""

    def __init__(self, dim: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(dim), Attention(dim), nn.Dropout(dropout))
        self.mlp = nn.Sequential(
            *(nn.LayerNorm(dim), nn.Linear(dim, 2 * dim), nn.GELU(), nn.Dropout(dropout)),
            *(nn.Linear(2 * dim, dim), nn.Dropout(dropout)),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map tokens (B, T, dim) to (B, T, dim)."""
        x = x + self.attention(x)
        tokens: Tensor = x + self.mlp(x)
        return tokens


class TransformerFeatures(nn.Module):
    """Patches to tokens, a class token in front, encoder blocks; the class token is the feature vector."""

    def __init__(self, channels: int, tokens: int, patch: int, dim: int, dropout: float) -> None:
        super().__init__()
        self.patches = nn.Conv2d(channels, dim, patch, stride=patch)
        self.class_token = nn.Parameter(torch.zeros(1, dim))
        self.positions = nn.Parameter(torch.empty(1 + tokens, dim))
        self.reset_parameters()
        self.encoder = nn.Sequential(
            nn.Dropout(dropout), *(EncoderBlock(dim, dropout) for _ in range(DEPTH)), nn.LayerNorm(dim)
        )

    def reset_parameters(self) -> None:
        """Draw its own parameters, those of no layer, anew."""
        nn.init.zeros_(self.class_token)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (B, C, H, W) to (B, dim)."""
        patches = self.patches(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.class_token.expand(x.shape[0], -1, -1), patches], dim=1) + self.positions
        features: Tensor = self.encoder(tokens)[:, 0]
        return features


def vit(input_shape: tuple[int, ...], width: int = 64, dropout: float = 0.0) -> Features:
    """Return a transformer of 4 blocks and 4 heads on 4x4 patches, 2x2 for images smaller than 16x16."""
    channels, height, image_width = input_shape
    patch = 4 if min(height, image_width) >= 16 else 2
    if width % HEADS:
        raise FedsimError(f"model.width: vit needs a multiple of its {HEADS} heads; got {width}")
    if height % patch or image_width % patch:
        raise FedsimError(f"model.name: vit needs image sides divisible by {patch}; got {height}x{image_width}")
    tokens = (height // patch) * (image_width // patch)
    return TransformerFeatures(channels, tokens, patch, width, dropout), width
