"""Models with a personal part, which stays with each client, and a shared rest: FedRep, FedPer, FedBN, local training.

There is no global way to predict: the exported model has the initial tensors in place of the personal ones, and a run
reports no global accuracy.
"""

from __future__ import annotations

from collections.abc import Set

from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.federated.client import Client
from fedsim.federated.server import Server
from fedsim.federated.types import State
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier


def head(model: Classifier) -> Set[str]:
    """Return the names of the classifier's parameters."""
    return {name for name, _ in model.named_parameters() if name.startswith("classifier.")}


class PartsClient(Client):
    """Keeps a part of the model, and predicts with it and the shared rest."""

    personalised = True
    part = staticmethod(head)
    """A function from the model to the names of the personal tensors."""

    def __init__(self, config: RunConfig, model: Classifier) -> None:
        super().__init__(config, model)
        self.kept_names = self.part(model)
        self.initial_buffers = {name: value.detach() for name, value in model.named_buffers()}

    def personal(self, client: int, start: State) -> State:
        """Return the part with its initial values."""
        params, buffers = (
            {name: value for name, value in part.items() if name in self.kept_names}
            for part in (self.initial, self.initial_buffers)
        )
        return State(params, buffers)


class PartsServer(Server):
    """Averages the shared tensors."""

    part = staticmethod(head)
    """A function from the model to the names of the personal tensors."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        self.kept_names = self.part(model)
        super().__init__(config, model, data)

    def initial(self) -> Tensors:
        """Return the shared tensors."""
        return {name: value for name, value in super().initial().items() if name not in self.kept_names}

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return {}: there is no global way to predict."""
        return {}

    def export(self, tensors: Tensors) -> Tensors:
        """Return the shared tensors, with initial values for the personal ones."""
        return super().initial() | tensors
