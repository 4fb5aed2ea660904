"""FedETF: train the features towards a fixed simplex-ETF classifier.

The classifier V (C x d) is a simplex equiangular tight frame. No client trains it and all use the same one, so clients
with skewed data cannot distort it.

Client: min_theta CE(V f_theta(x), y).   Server: theta as FedAvg; the model is V f_theta(x).

With `sparsity` above 0 the frame is the sparse one of FedLoGe (arXiv:2401.08977), so a run shows the effect of the
frame alone. Differs from "No Fear of Classifier Biases" (arXiv:2303.10058): no projection layer and no learned
temperature, only the fixed classifier.
"""

import torch
from pydantic import Field
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras, State
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.models.etf import sparse_etf
from fedsim.randomness import generator


class FedETFConfig(StrategyConfig):
    """Options of FedETF."""

    norm: float = Field(1.0, gt=0)
    """gamma, the length of every class vector."""
    sparsity: float = Field(0.0, ge=0, lt=1)
    """beta, the share of V's entries that are zero."""


class FedETFClient(Client):
    """SGD on the features alone."""

    needs_classes = True

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return CE(V f_theta(x), y) for one batch."""
        f = self.model.features(params, buffers, batch.x, train=True)
        return batch.cross_entropy(f @ extras.constants["etf"].T), {}

    def plain(self, state: State, constants: Tensors) -> Tensors:
        """Return theta with V as the classifier."""
        v = constants["etf"]
        return super().plain(state, constants) | {"classifier.weight": v, "classifier.bias": torch.zeros_like(v[:, 0])}

    def heads(self, state: State, constants: Tensors, x: Tensor) -> Tensors:
        """Return V f_theta(x)."""
        return {"etf": self.model.features(state.params, state.buffers, x, train=False) @ constants["etf"].T}


class FedETFServer(Server):
    """Averages theta; holds V."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        options = self.options(FedETFConfig)
        rng = generator(config.seed, "etf")
        etf = sparse_etf(model.classifier.out_features, model.feature_dim, options.sparsity, options.norm, rng)
        self.etf = etf.to(model.classifier.weight)

    def initial(self) -> Tensors:
        """Return theta."""
        return {name: value for name, value in super().initial().items() if not name.startswith("classifier.")}

    def constants(self) -> Tensors:
        """Return V."""
        return {"etf": self.etf}

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return V f_theta(x)."""
        return {"etf": self.model.features(state.params, state.buffers, x, train=False) @ self.etf.T}

    def export(self, tensors: Tensors) -> Tensors:
        """Return theta with V as the classifier."""
        return {**tensors, "classifier.weight": self.etf, "classifier.bias": torch.zeros_like(self.etf[:, 0])}


strategy("fedetf", FedETFConfig, FedETFClient, FedETFServer)
