"""Failures on purpose: which client fails how, drawn per (round, client), so that a faulty run repeats too."""

from __future__ import annotations

from typing import Literal

from fedsim.config.run import FaultsConfig
from fedsim.randomness import generator

Fault = Literal["dropout", "error", "nan"]


def fault_of(config: FaultsConfig, seed: int, server_round: int, client: int) -> Fault | None:
    """Return the failure that `config` injects into this client's round, if any."""
    if not (config.dropout or config.error or config.nan):
        return None
    draw = generator(seed, "faults", server_round, client).random()
    faults: tuple[Fault, ...] = ("dropout", "error", "nan")
    for fault in faults:
        draw -= getattr(config, fault)
        if draw < 0:
            return fault
    return None
