"""FedNova: normalise each client's update by its number of steps (arXiv:2007.07481).

tau_k is client k's number of steps; ||a_k||_1 is the total weight with which its gradients are applied. It is tau_k for
plain SGD, and (tau_k - rho (1 - rho^tau_k) / (1 - rho)) / (1 - rho) with momentum rho.

Client: E epochs of SGD on F_k from w_t to w_k; sends the normalised gradient -lr d_k = (w_k - w_t) / ||a_k||_1.
Server: w_{t+1} = w_t - tau_eff sum_k p_k lr d_k,   tau_eff = sum_k p_k ||a_k||_1,   p_k = n_k / n.
Buffers are averaged.
"""

from collections.abc import Iterator

from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Extras, Update, per_client
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Release
from fedsim.training.optimizers import gradient_weight, require_sgd


class FedNovaClient(Client):
    """SGD; sends normalised gradients."""

    sends = "normalised difference"

    def __init__(self, config: RunConfig, model: Classifier) -> None:
        super().__init__(config, model)
        require_sgd(config)

    def finish(self, update: Update, extras: Extras) -> Update:
        """Send -lr d_k instead of w_k, and ||a_k||_1."""
        training = self.config.training
        a = gradient_weight(update.steps, training.momentum, training.nesterov)
        sent = dict(update.sent)
        for name, start in extras.start.items():
            moved: Tensor = sent[name] - start
            # It is below 1 only for a client that took no step.
            sent[name] = moved / per_client(a.clamp_min(1).to(start), moved)
        return update._replace(sent=sent | {"a": a})

    def moved(self, sent: Tensors, start: Tensors) -> Tensors:
        """Return ||a_k||_1 (-lr d_k)."""
        return {name: sent["a"].clamp_min(1).to(sent[name]) * sent[name] for name in start}

    def having_moved(self, sent: Tensors, start: Tensors, update: Tensors) -> Tensors:
        """Return U / ||a_k||_1, and ||a_k||_1 unchanged."""
        return sent | {name: value / sent["a"].clamp_min(1).to(value) for name, value in update.items()}

    def releases(self) -> list[Release]:
        """Return the base's releases and ||a_k||_1."""
        return [
            *super().releases(),
            Release(what="numbers of steps", covers=("arrays/a",), note="they follow from sizes"),
        ]


class FedNovaServer(Server):
    """Averages normalised gradients."""

    def aggregate(self, updates: Iterator[tuple[Tensors, float]]) -> Tensors | None:
        """Return w_t - tau_eff sum_k p_k lr d_k."""
        mean = super().aggregate(updates)
        if mean is None:
            return None
        tau_eff = mean.pop("a")
        return mean | {name: self.current[name].to(mean[name]) + tau_eff * mean[name] for name in self.first.params}


strategy("fednova", StrategyConfig, FedNovaClient, FedNovaServer)
