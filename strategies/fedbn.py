"""FedBN: clients keep their own batch norm and share all other layers (arXiv:2102.07623).

Client: E epochs of SGD on F_k, from the shared weights and its own batch norm (weights and running statistics).
Server: averages all other tensors as FedAvg. A client that has not trained predicts with the initial batch norm.
"""

from collections.abc import Set

from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.config.strategy import StrategyConfig
from fedsim.errors import FedsimError
from fedsim.federated.registry import strategy
from fedsim.models.base import Classifier
from strategies.personal_parts import PartsClient, PartsServer


def batch_norms(model: Classifier) -> Set[str]:
    """Return the names of all tensors of batch norm layers.

    Raises
    ------
    FedsimError
        If the model has no batch norm.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, _BatchNorm)]
    if not layers:
        way = "choose a model that takes model.norm=batch, such as mlp or cnn, or another method"
        raise FedsimError(f"model.norm: fedbn keeps batch norm with the clients, and this model has none; {way}")
    names = (name for name, _ in (*model.named_parameters(), *model.named_buffers()))
    return {name for name in names if name.rpartition(".")[0] in layers}


class FedBNClient(PartsClient):
    """Keeps its batch norm."""

    part = staticmethod(batch_norms)


class FedBNServer(PartsServer):
    """Averages all other tensors."""

    part = staticmethod(batch_norms)


strategy("fedbn", StrategyConfig, FedBNClient, FedBNServer, run_defaults={"model.norm": "batch"})
