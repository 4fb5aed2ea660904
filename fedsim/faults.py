"""Injected failures: drawn per (round, client), so that a run with failures also repeats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import torch

from fedsim.config.run import FaultsConfig
from fedsim.flower.records import Tensors
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


def lost_by(config: FaultsConfig, seed: int, server_round: int, client: int) -> str | None:
    """Return why this client does not answer in this round; None if it answers."""
    fault = fault_of(config, seed, server_round, client)
    return f"injected {fault}" if fault in ("dropout", "error") else None


def spoil(config: FaultsConfig, seed: int, server_round: int, clients: Sequence[int], params: Tensors) -> None:
    """Overwrite the parameters of clients that should send NaN; `params` are stacked (clients, ...)."""
    for row, client in enumerate(clients):
        if fault_of(config, seed, server_round, client) == "nan":
            for value in params.values():
                value[row] = torch.nan
