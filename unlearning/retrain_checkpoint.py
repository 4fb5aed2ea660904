"""Retrain from a checkpoint: go back to the round before the forgotten clients' first one, and continue without them.

t* = the first round for which a client with samples to forget was drawn. Restore θ^{t*} as it was sent, and the
server's state; replay rounds t*, …, T of the recipe without those samples. No draw here depends on who is forgotten, so
this is retraining from scratch, bit for bit. If not every round was kept, it starts at the last kept round up to t*; if
clients keep their own state, it starts at round 1. As in Plato's federated unlearning (github.com/TL-System/plato).
"""

from fedsim.flower.records import Tensors
from unlearning.api.federation import Federation
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, unlearning


class CheckpointConfig(UnlearningConfig):
    """Retraining from a checkpoint has no options."""


@unlearning("retrain_checkpoint", CheckpointConfig, Needs(history=True, clients=True), {"clients", "samples", "class"})
def unlearn(federation: Federation, config: CheckpointConfig) -> Tensors:
    """Return the global tensors of the replayed run."""
    first = federation.first_round()
    return federation.replay([kept for kept in federation.rounds if kept.number <= first][-1])
