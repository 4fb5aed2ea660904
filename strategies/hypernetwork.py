"""A hypernetwork on the server: it generates all weights of a client's model from a descriptor of that client.

    z = W_B relu(... relu(W_1 (W_0 v + b_0) + b_1) ...) + b_B                    features of the descriptor v in R^l
    theta_t = A_t z + a_t,  reshaped                                            one linear head for each tensor t

Client i returns D_i = theta_i - (theta_i after its local steps), which replaces a gradient. The server propagates D_i
back through the graph that generated theta_i:  (d theta_i / d .)^T D_i   (arXiv:2103.04628, section 3;
arXiv:2306.05515). pFedHN and PeFLL share this module.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from flwr.app import ArrayRecord, Message
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import linear, relu

from fedsim.config.run import RunConfig, TrainingConfig
from fedsim.config.schedule import require_server_steps
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.federated.aggregation import MeanMetrics
from fedsim.federated.client import Client
from fedsim.federated.server import Server
from fedsim.federated.types import Extras, Phase, State, Update
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.models.base import Classifier
from fedsim.privacy.ledger import Release
from fedsim.randomness import torch_draws, torch_seed
from fedsim.training.optimizers import Optimizer

PREFIX = "hypernetwork."
"""Prefix of the names of the hypernetwork's tensors among the global ones; they are never sent."""


class HypernetworkConfig(StrategyConfig):
    """Options of a method with a hypernetwork."""

    descriptor: int | None = Field(None, ge=2)
    """l, the size of a descriptor; by default 1 + clients / 4, including unseen clients."""
    hidden: int = Field(100, ge=1)
    """Width of the hypernetwork."""
    blocks: int = Field(3, ge=1)
    """B, the number of hidden layers."""
    server_lr: float = Field(2e-4, gt=0)
    """Learning rate of the server's Adam."""
    server_clip: float = Field(50.0, gt=0)
    """Largest joint norm of all gradients of a round."""

    def size(self, clients: int) -> int:
        """Return l for this number of clients."""
        return max(2, 1 + clients // 4) if self.descriptor is None else self.descriptor


def new_hypernetwork(
    size: int, hidden: int, blocks: int, shapes: Mapping[str, torch.Size], seed: int, like: Tensor
) -> Tensors:
    """Return the initial weights by name, with PyTorch's default initialisation and the dtype and device of `like`."""
    layers: dict[str, nn.Linear] = {}
    with torch_draws(torch_seed(seed, "hypernetwork")):
        for block in range(blocks + 1):
            layers[f"body.{block}"] = nn.Linear(hidden if block else size, hidden)
        for name, shape in shapes.items():
            layers[f"head.{name}"] = nn.Linear(hidden, shape.numel())
    return {
        f"{PREFIX}{layer}.{part}": value.detach().to(like)
        for layer, module in layers.items()
        for part, value in module.named_parameters()
    }


def generate(weights: Tensors, v: Tensor, shapes: Mapping[str, torch.Size]) -> Tensors:
    """Return the models {name: (c, *shape)} for descriptors v (c, l)."""

    def layer(name: str, x: Tensor) -> Tensor:
        return linear(x, weights[f"{PREFIX}{name}.weight"], weights[f"{PREFIX}{name}.bias"])

    z = layer("body.0", v)
    block = 1
    while f"{PREFIX}body.{block}.weight" in weights:
        z = layer(f"body.{block}", relu(z))
        block += 1
    return {name: layer(f"head.{name}", z).view(len(v), *shape) for name, shape in shapes.items()}


def clipped(gradients: Tensors, bound: float) -> Tensors:
    """Return gradients, jointly scaled to a norm of at most `bound`."""
    norm = math.sqrt(sum(float(value.double().square().sum()) for value in gradients.values()))
    return gradients if norm <= bound else {name: value * (bound / norm) for name, value in gradients.items()}


class ServerAdam:
    """Adam on named tensors; it never writes to its arguments or earlier results."""

    def __init__(self, lr: float, values: Tensors) -> None:
        self._optimizer = Optimizer(TrainingConfig(optimizer="adam", lr=lr), values)
        self.moments = self._optimizer.state
        self.steps = 0

    def step(self, values: Tensors, gradients: Tensors) -> Tensors:
        """Return the values after a step."""
        new = {name: value.detach().clone() for name, value in values.items()}
        self.moments = {
            slot: {name: value.clone() for name, value in moment.items()} for slot, moment in self.moments.items()
        }
        self._optimizer.step(new, [gradients[name] for name in new], self.moments, self.steps)
        self.steps += 1
        return new


class GeneratedClient(Client):
    """Trains the model that it received, and returns the change D = theta - trained theta."""

    personalised = True

    def phases(self) -> Sequence[Phase]:
        """Return one phase, whose steps draw their batches independently."""
        return [Phase(self.loss, fresh=True)]

    def finish(self, update: Update, extras: Extras) -> Update:
        """Return D."""
        return update._replace(sent={name: extras.start[name] - value for name, value in update.sent.items()})

    def releases(self) -> list[Release]:
        """Return the base's releases, with a description of the models that clients send."""
        note = "the change of the model that was made for this client alone, so that no sum hides it"
        return [
            release.model_copy(update={"what": "changes of clients' own models", "note": note})
            if release.covers == ("model",)
            else release
            for release in super().releases()
        ]


class GeneratingServer(Server):
    """Holds the hypernetwork. The global tensors are its weights, and others that a method trains with them."""

    replies = "updates"

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        name, options = config.strategy.name, config.strategy
        assert isinstance(options, HypernetworkConfig)
        buffers = list(dict(model.named_buffers()))
        if buffers:
            raise FedsimError(
                f"model.norm: {name} makes parameters, and no running statistics such as {buffers[0]}; "
                "use a model without batch norm (model.norm=group or none)"
            )
        require_server_steps(config.server, name)
        if config.start is not None:
            raise FedsimError(f"start: the models of {name} are generated, and start from no weights; leave it out")
        self.shapes = {name: value.shape for name, value in model.named_parameters()}
        self.size = self.descriptor_size(options, config, data)
        self.mean_descriptor = torch.zeros(self.size)
        """(l,), of the clients of the newest round."""
        super().__init__(config, model, data)
        self.adam = ServerAdam(options.server_lr, self.current)

    def descriptor_size(self, options: HypernetworkConfig, config: RunConfig, data: FederatedData) -> int:
        """Return l."""
        return options.size(config.clients)

    @property
    def like(self) -> Tensor:
        """A tensor with the dtype and device of the models."""
        return next(iter(self.first.params.values()))

    def initial(self) -> Tensors:
        """Return the hypernetwork."""
        options = self.options(HypernetworkConfig)
        return new_hypernetwork(self.size, options.hidden, options.blocks, self.shapes, self.config.seed, self.like)

    def split(self, tensors: Mapping[str, Tensor]) -> State:
        """Return all tensors as parameters."""
        return State(dict(tensors), {})

    def local_start(self) -> State:
        """Return a model with the clients' shapes."""
        return self.first

    def heads(self, state: State, x: Tensor) -> Tensors:
        """Return {}: there is no global way to predict."""
        return {}

    def export(self, tensors: Tensors) -> Tensors:
        """Return the model for the mean descriptor of the newest round's clients."""
        v = self.mean_descriptor.to(self.like)[None]
        return {name: value[0] for name, value in generate(tensors, v, self.shapes).items()}

    def models(self, tensors: Tensors, v: Tensor, nodes: Sequence[int]) -> tuple[Tensors, dict[int, ArrayRecord]]:
        """Return the models {name: (c, ...)} for descriptors v (c, l), and the record for each of the c nodes."""
        made = generate(tensors, v, self.shapes)
        rows = {name: value.detach() for name, value in made.items()}
        own = {node: to_record({name: value[row] for name, value in rows.items()}) for row, node in enumerate(nodes)}
        return made, own

    def models_alone(self, tensors: Tensors, v: Mapping[int, Tensor]) -> dict[int, ArrayRecord]:
        """Return the record for each node with the model for its descriptor (l,); models are generated one by one.

        So no bit of an evaluation depends on which other clients are evaluated.
        """
        with torch.no_grad():
            return {node: self.models(tensors, row[None], [node])[1][node] for node, row in v.items()}

    def changes(self, replies: Iterable[Message], metrics: MeanMetrics) -> dict[int, Tensors]:
        """Return {node: D_i} from the good replies to a training wave; add their metrics to `metrics`."""
        found = {}
        for reply in replies:
            if not reply.has_error():
                metrics.add(scalars(reply.content.metric_records["metrics"]))
                found[reply.metadata.src_node_id] = to_tensors(reply.content.array_records["arrays"], self.like.device)
        return found

    def updated(self, tensors: Tensors, gradients: Tensors) -> Tensors:
        """Return the global tensors after a step of the server; a missing gradient counts as zero."""
        every = {name: gradients.get(name, torch.zeros_like(value)) for name, value in tensors.items()}
        return self.adam.step(tensors, clipped(every, self.options(HypernetworkConfig).server_clip))

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return Adam's moments, the mean descriptor and the number of steps."""
        moments = {f"{slot}/{name}": value for slot, part in self.adam.moments.items() for name, value in part.items()}
        return {**moments, "mean_descriptor": self.mean_descriptor}, {"steps": self.adam.steps}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore this state."""
        self.adam.moments = {
            slot: {name: tensors[f"{slot}/{name}"].to(self.like.device) for name in part}
            for slot, part in self.adam.moments.items()
        }
        self.mean_descriptor = tensors["mean_descriptor"]
        self.adam.steps = int(values["steps"])


def stacked(changes: Mapping[int, Tensors], nodes: Sequence[int], made: Tensors) -> list[Tensor]:
    """Return D, [(c, ...)] in the order of `made`; zeros for nodes that sent none."""
    zeros = {name: torch.zeros_like(value[0]) for name, value in made.items()}
    rows = [changes.get(node, zeros) for node in nodes]
    return [torch.stack([row[name] for row in rows]).to(value) for name, value in made.items()]
