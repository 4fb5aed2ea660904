"""FedRep: a shared representation and a personal head (arXiv:2102.07078).

Client: phi_k <- E_h epochs of SGD on F_k(theta_t, phi) with theta_t fixed; then theta <- E epochs of SGD on
F_k(theta, phi_k) with phi_k fixed.   Server: theta as FedAvg; heads never leave their clients.

There is no global head. The classifier of the exported model is the initial one, untrained, and the run reports no
global accuracy.
"""

from collections.abc import Sequence

from pydantic import Field

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.registry import strategy
from fedsim.federated.types import Phase
from strategies.personal_parts import PartsClient, PartsServer


class FedRepConfig(StrategyConfig):
    """Options of FedRep."""

    head_epochs: int = Field(5, ge=1)
    """E_h, passes over the data for the head before the features are trained; those have training.epochs."""


class FedRepClient(PartsClient):
    """Trains the head, then the features."""

    def phases(self) -> Sequence[Phase]:
        """Return the phases of the head and of the features."""
        head = Phase(self.loss, lambda name: name in self.kept_names, self.options(FedRepConfig).head_epochs)
        return [head, Phase(self.loss, lambda name: name not in self.kept_names)]


strategy("fedrep", FedRepConfig, FedRepClient, PartsServer)
