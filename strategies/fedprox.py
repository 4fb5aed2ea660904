"""FedProx: keep local training near the global model (arXiv:1812.06127).

Client: min_w F_k(w) + (mu/2) ||w - w_t||^2.   Server: as FedAvg.
"""

from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors
from fedsim.training.objectives import proximal_penalty


class FedProxConfig(StrategyConfig):
    """Options of FedProx."""

    mu: float = Field(0.01, ge=0)
    """Pull to the global model; 0 is exactly FedAvg."""


class FedProxClient(Client):
    """SGD on the local loss with the proximal term."""

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return F_k(w) + (mu/2) ||w - w_t||^2 for one batch."""
        loss, metrics = super().loss(params, buffers, extras, batch)
        return loss + proximal_penalty(params, extras.start, self.options(FedProxConfig).mu), metrics


strategy("fedprox", FedProxConfig, FedProxClient, Server)
