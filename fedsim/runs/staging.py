"""Stages (classes that arrive over time) of a run: refusals, metrics, and their part of the summary."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fedsim.config.run import RunConfig
from fedsim.continual import measures
from fedsim.data.federation import FederatedData
from fedsim.data.stages import Stages
from fedsim.errors import FedsimError
from fedsim.evaluation import Score
from fedsim.federated.registry import Strategy
from fedsim.federated.server import Server


def require_stageable(config: RunConfig, strategy: Strategy, data: FederatedData) -> None:
    """Refuse parts that assume that clients' data do not change during the run.

    Raises
    ------
    FedsimError
        If the run has stages and one of these parts.
    """
    if data.stages is None:
        return
    for level in ("client", "example"):
        if getattr(config.privacy, level) is not None:
            raise FedsimError(f"privacy.{level}: the accountant knows no data.stages; leave one of them out")
    if strategy.prepare is not None:
        raise FedsimError(f"data.stages: {strategy.name} prepares its data once for all rounds; use another method")


def works_between_rounds(server: Server) -> bool:
    """Return whether the server half does work of its own between rounds."""
    return type(server).prepare_round is not Server.prepare_round


def require_keepable(config: RunConfig, server: Server) -> None:
    """Refuse to keep a history if a round consists of more than one message and one reply per client.

    Raises
    ------
    FedsimError
        If the run is to keep one.
    """
    if config.history.keep == "none":
        return
    name = config.strategy.name
    if not server.one_wave:
        raise FedsimError(
            f"history.keep: clients of {name} are sent several messages in a round, and a history holds one reply; "
            "use none"
        )
    if works_between_rounds(server):
        raise FedsimError(f"history.keep: the server of {name} works between rounds, unlike a history; use none")


def stage_metrics(
    stages: Stages, lines: Sequence[dict[str, Any]], server_round: int, score: Score
) -> tuple[dict[str, float], dict[str, Any]]:
    """Return a round's metrics of old, new and forgotten classes, and its accuracy of each class for metrics.jsonl.

    Parameters
    ----------
    stages
        The schedule.
    lines
        The lines of metrics.jsonl of the rounds before.
    server_round
        The round.
    score
        Scores of the method's own predictions, on the classes that have arrived.
    """
    before = [line for line in lines if "per_class" in line]
    table = np.array([*(line["per_class"] for line in before), score.per_class], dtype=np.float64)  # null is NaN
    begun = stages.of(server_round) + 1
    ends = [stages.rounds * number for number in range(1, begun)] + [max(stages.rounds * begun, server_round)]
    rounds = [*(line["round"] for line in before), server_round]
    told = measures(table, rounds, stages.blocks[:begun], ends)
    own = [value if np.isfinite(value) else None for value in score.per_class.tolist()]
    return {f"stages/{name}": value for name, value in told.items()}, {"per_class": own}


def schedule(stages: Stages, rounds: int) -> list[dict[str, Any]]:
    """Return the classes and the first and last round of every stage, in JSON form."""
    last = len(stages.blocks) - 1
    return [
        {
            "classes": classes.tolist(),
            "rounds": [stages.rounds * stage + 1, rounds if stage == last else stages.rounds * (stage + 1)],
        }
        for stage, classes in enumerate(stages.blocks)
    ]
