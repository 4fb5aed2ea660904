"""Where the randomness that privacy rests on comes from: seeded by all that the release depends on, or not at all.

Two releases that share their noise give their difference away without any, and two that share their coins are not
amplified as two. So the address of a draw holds, beside seed, purpose, round and client, a digest of the recipe, the
mechanism included, and of the data and models that the release is computed from. What is computed again, after a kill
or by a replay, is then the same release, to the bit; what differs in anything gets draws of its own. So do signatures
derive their nonces from what they sign (RFC 6979).

The seed remains a secret on which all of it hangs; `privacy.noise: secure` takes the operating system's randomness
instead, and repeats nothing.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from fedsim.randomness import generator, torch_seed

if TYPE_CHECKING:
    from fedsim.config.run import RunConfig

_NO_PART_OF_IT = ("history.", "training.vectorize", "training.chunk")
"""Keys of the recipe that change no release, or the order of its sums alone."""


class Secrets:
    """Draws for one run, of a recipe; `data` identifies the data of all clients, where the releases are of all."""

    def __init__(self, config: RunConfig, data: str = "") -> None:
        recipe = {key: value for key, value in config.recipe().items() if not key.startswith(_NO_PART_OF_IT)}
        self.seed, self.secure = config.seed, config.privacy.noise == "secure"
        self.key = digest(recipe, data)
        """A number below 2**128, the same for equal recipes and data."""

    def coins(self, purpose: str, *ids: int) -> np.random.Generator:
        """Return what draws samples; secure, it is seeded by the operating system, and none of its output is seen."""
        return np.random.default_rng() if self.secure else generator(self.seed, purpose, *ids, self.key)

    def noise(self, purpose: str, *ids: int, device: torch.device | str = "cpu") -> torch.Generator | None:
        """Return what draws noise, for `fedsim.privacy.mechanisms.gaussian_like`: None is the operating system."""
        if self.secure:
            return None
        return torch.Generator(device).manual_seed(torch_seed(self.seed, purpose, *ids, self.key))


def digest(*parts: object) -> int:
    """Return a number below 2**128 that tells apart numbers, texts, arrays, tensors, and mappings of them."""
    hashed = hashlib.sha256()
    for part in parts:
        for piece in _pieces(part):
            hashed.update(len(piece).to_bytes(8, "big"))
            hashed.update(piece)
    return int.from_bytes(hashed.digest()[:16], "big")


def _pieces(part: object) -> Iterator[Any]:
    if isinstance(part, torch.Tensor):
        array = part.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        yield from (f"{part.dtype}{tuple(part.shape)}".encode(), array.data)
    elif isinstance(part, np.ndarray):
        yield from (f"{part.dtype}{part.shape}".encode(), np.ascontiguousarray(part).reshape(-1).view(np.uint8).data)
    elif isinstance(part, Mapping) and any(isinstance(value, torch.Tensor) for value in part.values()):
        for name in sorted(part):
            yield from _pieces(name)
            yield from _pieces(part[name])
    elif isinstance(part, bytes):
        yield part
    else:
        yield json.dumps(part, sort_keys=True).encode()
