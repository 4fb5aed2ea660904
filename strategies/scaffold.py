"""SCAFFOLD: control variates against client drift (arXiv:1910.06378, Algorithm 1 with option II).

Client k, K steps from y = x:  y <- y - lr (g_k(y) - c_k + c)                                                 (eq. 3)
                               c_k+ = c_k - c + (x - y) / (K lr), kept; sends y and c_k+ - c_k                (eq. 4)
Server, S the cohort of N:     x <- x + global_lr mean_{k in S} (y - x)                                       (eq. 5)
                               c <- c + |S|/N mean_{k in S} (c_k+ - c_k)

The means are unweighted, as in the paper. With momentum, which the paper does not have, each gradient is applied more
than once. K is then the total weight of the gradients (FedNova's ||a_k||_1); otherwise c_k would overshoot the mean
gradient. Buffers are averaged.
"""

from collections.abc import Iterator
from typing import Any

import torch
from pydantic import Field
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.federated.aggregation import WeightedMean
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras, State, Update, per_client
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Release
from fedsim.training.optimizers import gradient_weight, require_sgd

_CONTROL = "control."


class ScaffoldConfig(StrategyConfig):
    """Options of SCAFFOLD."""

    global_lr: float = Field(1.0, gt=0)
    """Step of the server along the mean update."""


class ScaffoldClient(Client):
    """SGD with corrected gradients; keeps c_k."""

    def __init__(self, config: RunConfig, model: Classifier) -> None:
        super().__init__(config, model)
        require_sgd(config)

    def personal(self, client: int, start: State) -> State:
        """Return c_k = 0."""
        return State({}, {_CONTROL + name: torch.zeros_like(value) for name, value in start.params.items()})

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return F_k(y) for one batch, with the gradient of F_k(y) + <c - c_k, y>."""
        loss, metrics = super().loss(params, buffers, extras, batch)
        corrections = {name: extras.constants[_CONTROL + name] - buffers[_CONTROL + name] for name in extras.start}
        linear = torch.stack([(value * params[name]).sum() for name, value in corrections.items()]).sum()
        return loss + (linear - linear.detach()), metrics  # the value of the linear term has no meaning

    def finish(self, update: Update, extras: Extras) -> Update:
        """Keep c_k+, send c_k+ - c_k, and set the weight to 1."""
        training = self.config.training
        steps = gradient_weight(update.steps, training.momentum, training.nesterov)
        lr = training.lr_at(int(extras.server_round))
        kept, changes = {}, {}
        for name, x in extras.start.items():
            control, k_lr = _CONTROL + name, per_client((lr * steps).to(x), update.sent[name])
            gradient = (x - update.sent[name]) / k_lr
            # A client that took no step sends no change.
            changes[control] = torch.where(k_lr > 0, gradient - extras.constants[control], 0.0)
            kept[control] = update.kept.buffers[control] + changes[control]
        weights = torch.ones_like(update.weights)
        return update._replace(sent=update.sent | changes, kept=State({}, kept), weights=weights)

    def releases(self) -> list[Release]:
        """Return the base's releases and c_k+ - c_k."""
        note = "computed from the model that the client sends and what it kept"
        controls = Release(what="changes of control variates", covers=(f"arrays/{_CONTROL}*",), note=note)
        return [*super().releases(), controls]


class ScaffoldServer(Server):
    """Averages models and changes of control variates; sends c with the model."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        self.control = {
            _CONTROL + name: torch.zeros_like(value, device="cpu") for name, value in self.first.params.items()
        }
        """c, by name."""
        self.num_clients = int((data.partition.sizes > 0).sum())

    def constants(self) -> Tensors:
        """Return c."""
        return self.control

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return c."""
        return self.control, {}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore c."""
        self.control = {name: tensors[name] for name in self.control}

    def aggregate(self, updates: Iterator[tuple[Tensors, float]]) -> Tensors | None:
        """Return x + global_lr mean (y - x), after an update of c."""
        mean = WeightedMean()
        for tensors, weight in updates:
            mean.add(tensors, weight)
        if not mean.weight:
            return None
        y, global_lr = mean.result(), self.options(ScaffoldConfig).global_lr
        share = mean.weight / self.num_clients  # |S| / N: every client has weight 1
        self.control = {name: c + share * y.pop(name) for name, c in self.control.items()}
        return y | {n: torch.lerp(self.current[n].to(y[n]), y[n], global_lr) for n in self.first.params}


strategy("scaffold", ScaffoldConfig, ScaffoldClient, ScaffoldServer)
