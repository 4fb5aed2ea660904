"""The randomness that privacy depends on: seeded by everything that a release depends on, or not seeded.

Two releases with the same noise reveal their exact difference. Two releases with the same sampling coins are not
amplified separately. So the address of a draw holds the seed, the purpose, the round, the client, and a digest. The
digest is of the recipe, including the mechanism, and of the data and models from which the release is computed. A
release that is computed again, after a crash or in a replay, is then the same bit for bit. A release that differs in
anything has draws of its own. Signatures derive their nonces from the signed message in the same way (RFC 6979).

The seed must stay secret. `privacy.noise: secure` uses the randomness of the operating system instead, and never
repeats a draw.
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
"""Keys of the recipe that change no release, or only the order of its sums."""


class Secrets:
    """The draws of one run; `data` identifies the data of all clients, if releases depend on all of it."""

    def __init__(self, config: RunConfig, data: str = "") -> None:
        recipe = {key: value for key, value in config.recipe().items() if not key.startswith(_NO_PART_OF_IT)}
        self.seed, self.secure = config.seed, config.privacy.noise == "secure"
        self.key = digest(recipe, data)
        """A number below 2**128; equal recipes and data have equal keys."""

    def coins(self, purpose: str, *ids: int) -> np.random.Generator:
        """Return a generator for sampling. If secure, the operating system seeds it, and its output stays hidden."""
        return np.random.default_rng() if self.secure else generator(self.seed, purpose, *ids, self.key)

    def noise(self, purpose: str, *ids: int, device: torch.device | str = "cpu") -> torch.Generator | None:
        """Return a generator for noise, for `fedsim.privacy.mechanisms.gaussian_like`; None is the operating system."""
        if self.secure:
            return None
        return torch.Generator(device).manual_seed(torch_seed(self.seed, purpose, *ids, self.key))


def digest(*parts: object) -> int:
    """Return a number below 2**128 that identifies numbers, texts, arrays, tensors, and mappings of tensors."""
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
