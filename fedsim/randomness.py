"""Every random draw has an address: (run seed, purpose, ids such as round and client)."""

import zlib

import numpy as np


def generator(seed: int, purpose: str, *ids: int) -> np.random.Generator:
    """Return the generator of one address; equal addresses give equal streams, different ones independent streams.

    `purpose` names what is drawn ("cohort", "batches", ...); `ids` are non-negative integers such as the round and
    the client.
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(zlib.crc32(purpose.encode()), *ids)))


def torch_seed(seed: int, purpose: str, *ids: int) -> int:
    """Return the 63-bit seed of one address, for `torch.Generator.manual_seed` and `torch.manual_seed`."""
    return int(generator(seed, purpose, *ids).integers(2**63 - 1))
