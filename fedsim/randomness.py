"""Every random draw has an address: (run seed, purpose, ids such as round and client)."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from numpy.random.bit_generator import ISeedSequence

if TYPE_CHECKING:
    import torch


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return the generator of one address; equal addresses give equal streams, different ones independent streams.

    `purpose` names what is drawn ("cohort", "batches", ...); `ids` are non-negative integers such as the round and
    the client.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *ids)))


def torch_seed(seed: int, purpose: str, *ids: int) -> int:
    """Return the 63-bit seed of one address, for `torch.Generator.manual_seed` and `torch.manual_seed`."""
    return int(generator(seed, purpose, *ids).integers(2**63 - 1))


@contextmanager
def torch_draws(seed: int | None, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's own generators, of the CPU and of `device`, and restore them afterwards; None: only restore."""
    import torch  # imported here, because data are described and partitioned without torch

    gpus = [device] if device is not None and device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        if seed is not None:
            # Not torch.manual_seed: it reseeds every accelerator, and stores a stack trace for each unused one.
            torch.default_generator.manual_seed(seed)
            for gpu in gpus:
                torch.cuda.default_generators[gpu.index or 0].manual_seed(seed)
        yield


# Constants of the hash in numpy.random.SeedSequence, whose streams NumPy promises to keep.
_INIT_A, _MULT_A, _INIT_B, _MULT_B = (np.uint32(value) for value in (0x43B0D7E5, 0x931E8875, 0x8B51F9DD, 0x58F38DED))
_MIX_L, _MIX_R, _SHIFT = (np.uint32(value) for value in (0xCA01F9DD, 0x4973F715, 16))


_FEW = 10


def generators(seed: int, purpose: str, *ids: int | Sequence[int]) -> list[np.random.Generator]:
    """Return `generator` for several addresses, ten times as fast per address if there are many.

    At least one of `ids` is a sequence, and all sequences have the same length; ids are below 2**32.
    """
    columns = np.broadcast_arrays(zlib.crc32(purpose.encode()), *(np.asarray(some, np.int64) for some in ids))
    if columns[0].size < _FEW:
        return [generator(seed, purpose, *address) for address in zip(*(c.tolist() for c in columns[1:]), strict=True)]
    words = [column.astype(np.uint32) for column in columns]
    pool = np.random.SeedSequence(seed).pool[:, None]
    hashed = 16 + 4 * max(0, -(-seed.bit_length() // 32) - 4)  # words that the hash has used for the seed
    powers = _powers(_INIT_A, _MULT_A, hashed + 4 * len(words) + 1)[hashed:]
    for position, word in enumerate(words):
        constants = powers[4 * position : 4 * position + 5]
        pool = _folded(_MIX_L * pool - _MIX_R * _folded((word ^ constants[:4]) * constants[1:]))
    powers = _powers(_INIT_B, _MULT_B, 9)
    states = _folded((np.tile(pool, (2, 1)) ^ powers[:8]) * powers[1:])
    rows = np.ascontiguousarray(states.T).view(np.uint64)
    seeded: list[Any] = [_Given(row) for row in rows]  # NumPy's annotations only allow its own seed sequence
    return [np.random.Generator(np.random.PCG64(given)) for given in seeded]


class _Given(ISeedSequence):
    """Seeds a bit generator with a state that was computed elsewhere."""

    def __init__(self, state: npt.NDArray[np.uint64]) -> None:
        self.state = state

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> npt.NDArray[np.uint64]:
        return self.state


def _powers(first: np.uint32, factor: np.uint32, count: int) -> npt.NDArray[np.uint32]:
    """Return first * factor**i modulo 2**32, (count, 1)."""
    factors = np.full(count, factor)
    factors[0] = first
    return np.cumprod(factors, dtype=np.uint32)[:, None]


def _folded(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return words ^ (words >> _SHIFT)
