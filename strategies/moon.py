"""MOON: keep local features near those of the global model, away from the last local model's (arXiv:2103.16257).

z = f_w(x) are the features of the model in training, z_glob those of the global model w_t at the start of the round,
z_prev those of the client's own model from its last round; sim is the cosine similarity.

Client: min_w F_k(w) + mu * mean l_con,
        l_con = -log( exp(sim(z, z_glob)/tau) / (exp(sim(z, z_glob)/tau) + exp(sim(z, z_prev)/tau)) )
              = log(1 + exp((sim(z, z_prev) - sim(z, z_glob)) / tau))                     (model-contrastive loss)
Server: as FedAvg.

In a client's first round, its last model is the global one, so the gradient of l_con is 0. Differs from the paper: z
are the features before the classifier, without a projection head, so that all methods train the same network. BatchNorm
in the two fixed models normalises by the batch.
"""

import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras, State, Update
from fedsim.flower.records import Tensors

_PREVIOUS = "previous."


class MoonConfig(StrategyConfig):
    """Options of MOON."""

    mu: float = Field(1.0, ge=0)
    """Weight of the model-contrastive loss; 0 is exactly FedAvg."""
    temperature: float = Field(0.5, gt=0)
    """tau."""


def _of_features(params: Tensors) -> Tensors:
    return {_PREVIOUS + name: value for name, value in params.items() if not name.startswith("classifier.")}


def model_contrastive(z: Tensor, z_glob: Tensor, z_prev: Tensor, temperature: float) -> Tensor:
    """Return l_con of each sample, (B,), from features (B, d)."""
    near, far = (F.cosine_similarity(z, other, dim=1) for other in (z_glob, z_prev))
    return F.softplus((far - near) / temperature)


class MoonClient(Client):
    """SGD on the local and the model-contrastive loss; keeps the features of its last model."""

    reports = ("contrastive",)

    def personal(self, client: int, start: State) -> State:
        """Return the features of the global model when the client first receives it."""
        return State({}, _of_features(start.params))

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return F_k(w) + mu * l_con for one batch, with l_con as a metric."""
        options = self.options(MoonConfig)
        previous = {n.removeprefix(_PREVIOUS): value for n, value in buffers.items() if n.startswith(_PREVIOUS)}
        statistics = {n: value for n, value in buffers.items() if not n.startswith(_PREVIOUS)}
        z_glob, z_prev = (  # with copies of the running statistics, which are updated in place
            self.model.features(fixed, {n: value.clone() for n, value in statistics.items()}, batch.x, train=True)
            for fixed in (extras.start, previous)
        )
        z = self.model.features(params, buffers, batch.x, train=True)
        l_con = batch.mean(model_contrastive(z, z_glob, z_prev, options.temperature))
        return batch.cross_entropy(self.model.classify(params, z)) + options.mu * l_con, {"contrastive": l_con}

    def finish(self, update: Update, extras: Extras) -> Update:
        """Keep the features of the trained model."""
        trained = {name: update.sent[name] for name in extras.start}
        return update._replace(kept=State({}, _of_features(trained)))


strategy(
    "moon", MoonConfig, MoonClient, Server,
    metrics={"contrastive": "l_con, how much nearer features are to the last local model's than to the global one's"},
)  # fmt: skip
