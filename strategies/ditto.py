"""Ditto: a personal model besides the global one, kept near it (arXiv:2012.04221).

Client: w <- E epochs of SGD on F_k from w_t, returned; then v_k <- E_p epochs of SGD on
F_k(v) + (penalty/2) ||v - w_t||^2, kept.   Server: w as FedAvg. Clients predict with v_k.
"""

from collections.abc import Sequence

from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras, Phase, State
from fedsim.flower.records import Tensors
from fedsim.training.objectives import proximal_penalty


class DittoConfig(StrategyConfig):
    """Options of Ditto."""

    penalty: float = Field(0.1, ge=0)
    """lambda, the pull of personal models to the global one; 0 trains them alone."""
    personal_epochs: int = Field(1, ge=1)
    """E_p, passes over the data per round for the personal model."""


_OWN = "personal."


def _own(tensors: Tensors) -> Tensors:
    return {name.removeprefix(_OWN): value for name, value in tensors.items() if name.startswith(_OWN)}


class DittoClient(Client):
    """Trains w, then v_k."""

    personalised = True

    def personal(self, client: int, start: State) -> State:
        """Return v_k: the global model when the client first receives it."""
        return State(*({f"{_OWN}{name}": value for name, value in part.items()} for part in start))

    def phases(self) -> Sequence[Phase]:
        """Return the phases of the global model and of the personal model."""
        ours = Phase(self.loss, lambda name: not name.startswith(_OWN))
        mine = Phase(
            self.personal_loss, lambda name: name.startswith(_OWN), self.options(DittoConfig).personal_epochs,
            stays=lambda name: True,
        )  # fmt: skip
        return [ours, mine]

    def personal_loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return F_k(v) + (penalty/2) ||v - w_t||^2 for one batch."""
        v = _own(params)
        loss, _ = self.loss(v, _own(buffers), extras, batch)
        return loss + proximal_penalty(v, extras.start, self.options(DittoConfig).penalty), {}

    def plain(self, state: State, constants: Tensors) -> Tensors:
        """Return v_k as a plain model."""
        return _own(state.params) | _own(state.buffers)

    def heads(self, state: State, constants: Tensors, x: Tensor) -> Tensors:
        """Return the logits of v_k, and those of the global model."""
        return {
            "personal": super().heads(State(_own(state.params), _own(state.buffers)), constants, x)["model"],
            "global": super().heads(state, constants, x)["model"],
        }


strategy(
    "ditto", DittoConfig, DittoClient, Server,
    shows=("clients/accuracy", "global/accuracy", "clients/accuracy_worst10"),
    metrics={"personal": "each client's own model", "global": "the global model at the client"},
)  # fmt: skip
