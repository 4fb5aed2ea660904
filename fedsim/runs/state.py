"""The state of a run between rounds."""

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
    """Everything that changes from round to round; checkpoints store it."""

    tensors: Tensors
    """The global model."""
    server: tuple[Tensors, dict[str, Any]]
    """The server's `state_dict()`."""
    ledger: Ledger
    """The privacy ledger: what clients have released."""
    round: int = 0
    """Rounds done."""
    metrics: list[dict[str, Any]] = field(default_factory=list)
    """The lines of metrics.jsonl."""
    failures: int = 0
    """Client replies lost."""
    seconds: float = 0.0
    """Wall time spent in rounds."""
    scores: dict[str, Score] | None = None
    """Scores of every head in the newest evaluation; None before the first evaluation in this process."""
    clients: list[ClientScore] | None = None
    """Scores of every client in the newest evaluation; None before the first one in this process."""
    clip_norm: float | None = None
    """The clipping norm of the next round, if client-level privacy is on."""

    def release(self, server_round: int, cohort: Sequence[int]) -> bool:
        """Record a round in the ledger; return False if it has been released before with the same bits."""
        new = not self.ledger.covers_round(server_round)
        if new:
            self.ledger.add_round(cohort)
        return new
