"""NoT in the federation: negate the weights of the first layers, then run further rounds without the forgotten clients.

θ_l ← −θ_l^T for the chosen layers l;  then rounds T + 1, T + 2, … of the recipe with the staying clients.
Neither the history nor any data of the clients to forget is needed.
"NoT: Federated Unlearning via Weight Negation" (arXiv:2503.05657).
"""

from pydantic import Field

from fedsim.flower.records import Tensors
from unlearning.api.federation import Federation
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.not_ import first_layers


class NotFederatedConfig(UnlearningConfig):
    """Options of NoT in the federation."""

    rounds: int = Field(10, ge=0, json_schema_extra=searched(3, 20))
    """Rounds for the repair."""
    layers: int = Field(1, ge=0)
    """Number of layers to negate, convolutional or linear, counted from the input."""


@unlearning("not_federated", NotFederatedConfig, Needs(clients=True), {"clients", "samples", "class"})
def unlearn(federation: Federation, config: NotFederatedConfig) -> Tensors:
    """Return the global tensors, perturbed and repaired."""
    theta = federation.final()
    negated = {name: -theta[name] for name in first_layers(federation.model(theta), config.layers)}
    return federation.go_on(theta | negated, config.rounds)
