"""What changes from round to round of a run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fedsim.evaluation import Score
from fedsim.flower.records import Tensors
from fedsim.privacy.ledger import Ledger
from fedsim.runs.client_scores import ClientScore

Metrics = dict[str, float]


@dataclass
class RunState:
    """What changes from round to round, and goes into a checkpoint."""

    tensors: Tensors
    """The global model."""
    server: tuple[Tensors, dict[str, Any]]
    """The server's `state_dict()`."""
    ledger: Ledger
    """What clients have shown."""
    round: int = 0
    """Rounds done."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    failures: int = 0
    """Client replies lost."""
    seconds: float = 0.0
    """Wall time spent in rounds."""
    scores: dict[str, Score] | None = None
    """Of every head in the newest evaluation; None before the first one in this process."""
    clients: list[ClientScore] | None = None
    """Of every client in the newest evaluation; None likewise."""
    clip_norm: float | None = None
    """The clipping norm of the next round, where client-level privacy has one."""

    def release(self, server_round: int, cohort: Sequence[int]) -> bool:
        """Enter a round into the ledger; returns False for one that has been released before, to the same bits."""
        new = not self.ledger.covers_round(server_round)
        if new:
            self.ledger.add_round(cohort)
        return new
