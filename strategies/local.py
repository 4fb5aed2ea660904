"""Local training: every client trains alone and shares nothing; the baseline that a federation must beat.

Client: w_k <- E epochs of SGD on F_k from its own w_k.   Server: nothing.
"""

from collections.abc import Set

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.registry import strategy
from fedsim.models.base import Classifier
from strategies.personal_parts import PartsClient, PartsServer


def everything(model: Classifier) -> Set[str]:
    """Return the names of all tensors."""
    return {name for name, _ in (*model.named_parameters(), *model.named_buffers())}


class LocalClient(PartsClient):
    """Keeps its model."""

    part = staticmethod(everything)


class LocalServer(PartsServer):
    """Has nothing to average."""

    part = staticmethod(everything)


strategy("local", StrategyConfig, LocalClient, LocalServer)
