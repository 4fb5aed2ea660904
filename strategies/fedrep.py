"""FedRep: a shared representation, a head of one's own (arXiv:2102.07078).

Client: phi_k <- E_h epochs of SGD on F_k(theta_t, phi) with theta_t held; then theta <- E epochs of SGD on
F_k(theta, phi_k) with phi_k held.   Server: theta as FedAvg; heads never leave their clients.

There is no global head: the exported model's classifier is the one that all clients started from, untrained, and the
run reports no global accuracy.
"""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Phase, State
from fedsim.flower.records import Tensors


class FedRepConfig(StrategyConfig):
    """Options of FedRep."""

    head_epochs: int = Field(5, ge=1)
    """E_h, passes over the data that train the head before the features; their number is training.epochs."""


def _is_head(name: str) -> bool:
    return name.startswith("classifier.")


class FedRepClient(Client):
    """First the head, then the features."""

    personalised = True

    def personal(self, client: int, start: State) -> State:
        """Return phi_k: the initial head, the same for all."""
        return State({name: value for name, value in self.initial.items() if _is_head(name)}, {})

    def phases(self) -> Sequence[Phase]:
        """Return the head's phase and the features' phase."""
        head = Phase(self.loss, _is_head, self.options(FedRepConfig).head_epochs)
        return [head, Phase(self.loss, lambda name: not _is_head(name))]


class FedRepServer(Server):
    """Averages theta."""

    def initial(self) -> Tensors:
        """Return theta."""
        return {name: value for name, value in super().initial().items() if not _is_head(name)}

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return nothing: there is no global way to predict."""
        return {}

    def export(self, tensors: Tensors) -> Tensors:
        """Return theta with the initial head."""
        return super().initial() | tensors


strategy("fedrep", FedRepConfig, FedRepClient, FedRepServer)
