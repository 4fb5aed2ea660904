"""Retrain from a checkpoint: go back to before the clients' first round, and on from there without them.

t* = the first round that a client with samples to forget was drawn for;  restore θ^{t*} as it was sent, the server's
state with it;  replay rounds t*, …, T of the recipe without those samples.
Where no draw depends on who is forgotten, and none does here, that is retraining from scratch, bit for bit. Where not
every round is kept it begins with the last one kept up to t*; where clients keep a state of their own, with the first.
As in Plato's federated unlearning (github.com/TL-System/plato).
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
