"""PeFLL: a client's model from one pass over its data, by learning to learn (arXiv:2306.05515).

A small embedding network phi (on clients) computes a descriptor of a client's samples. A hypernetwork h (on the server)
generates the weights of its model:  vbar_i = mean_{(x,y) in B_i} phi(x, y; eta_v),  v_i = (vbar_i - m) / s,
theta_i = h(v_i; eta_h);  m and s are the mean and standard deviation over the coordinates of the run's first vbar.

A round has three waves to the same clients P:
  1  server: eta_v                      client: sum of phi over B_i, drawn with a seed of its own
  2  server: theta_i                    client: k local steps; D_i = theta_i - trained theta_i
  3  server: g_i = (1/s) (d theta_i / d v_i)^T D_i      client, same B_i: (d vbar_i / d eta_v)^T g_i
  server: G = mean over P of both gradients, norm at most server_clip, one step of Adam on (eta_v, eta_h).
A client that is lost in any wave is left out of G. A new client needs wave 1, over all its samples, and one forward
pass.

Differs from the authors' code: sums of phi are divided by the number of samples, not by twice the number of batches;
for equal batches this is the same after (m, s). m and s are kept with the run. A small last batch is never dropped.
`accuracy` does not mask absent classes (`accuracy_masked` does, for every method).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.federated.aggregation import MeanMetrics
from fedsim.federated.exchange import Exchange
from fedsim.federated.queries import Query
from fedsim.federated.registry import strategy
from fedsim.federated.types import Batch, State
from fedsim.flower.records import Tensors, scalars, to_record, to_tensors
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.functional import FunctionalModel
from fedsim.privacy.ledger import Release
from strategies.hypernetwork import (
    PREFIX,
    GeneratedClient,
    GeneratingServer,
    HypernetworkConfig,
    stacked,
)

_EMBEDDING = "embedding."


class PefllConfig(HypernetworkConfig):
    """Options of PeFLL."""

    embedding: Literal["network", "histogram", "constant"] = "network"
    """The descriptor of a client: phi; the shares of its classes; or a constant, equal for all."""
    labels: bool = True
    """Whether phi gets labels, as constant planes beside the image."""
    descriptor_batch: int | None = Field(32, ge=1)
    """Samples of B_i in training; null: all samples of the client, as in evaluation."""


def labelled(x: Tensor, y: Tensor, num_classes: int) -> Tensor:
    """Return inputs (B, c, H, W) or (B, D) with the one-hot label appended as planes or entries."""
    planes = one_hot(y, num_classes).to(x)
    return torch.cat([x, planes.view(*planes.shape, *[1] * (x.dim() - 2)).expand(-1, -1, *x.shape[2:])], 1)


def new_embedding(config: RunConfig, input_shape: tuple[int, ...], num_classes: int, size: int) -> Classifier:
    """Return phi: the run's own model with l outputs, on inputs that include the label."""
    options = config.strategy
    assert isinstance(options, PefllConfig)
    channels = input_shape[0] + (num_classes if options.labels else 0)
    return build_model(config.model, (channels, *input_shape[1:]), size, config.seed)


def scale_of(descriptor: Tensor) -> tuple[float, float]:
    """Return m and s of a descriptor (l,): mean and unbiased standard deviation over its coordinates."""
    return float(descriptor.mean()), float(descriptor.std())


class PefllClient(GeneratedClient):
    """Describes its samples, trains the model that it received, and computes phi's part of the gradient."""

    needs_classes = True

    def __init__(self, config: RunConfig, model: Classifier) -> None:
        super().__init__(config, model)
        self.size = self.options(PefllConfig).size(config.clients)
        self.phi = FunctionalModel(new_embedding(config, model.input_shape, self.num_classes, self.size))

    def embed(self, eta_v: Tensors, batch: Batch) -> Tensor:
        """Return phi of a batch, (B, l)."""
        named = {name.removeprefix(_EMBEDDING): value for name, value in eta_v.items()}
        x = labelled(batch.x, batch.y, self.num_classes) if self.options(PefllConfig).labels else batch.x
        return self.phi.logits(named, {}, x, train=False)

    def describe(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        """Return the sum of the descriptors over a batch, (l,)."""
        kind = self.options(PefllConfig).embedding
        with torch.no_grad():
            if kind == "network":
                return {"descriptor": self.embed(state.params, batch).sum(0)}
            if kind == "histogram":
                return {"descriptor": one_hot(batch.y, self.num_classes).to(batch.x).sum(0)}
            return {"descriptor": torch.full((self.size,), float(len(batch.y))).to(batch.x)}

    def backward(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        """Return sum_x (d phi(x) / d eta_v)^T g, which is |B| times the gradient of <g, vbar>."""
        leaves = {name: value.detach().requires_grad_() for name, value in state.params.items()}
        value = self.embed(leaves, batch).sum(0)
        return dict(zip(leaves, torch.autograd.grad(value, list(leaves.values()), own["gradient"]), strict=True))

    def queries(self) -> Mapping[str, Query]:
        """Return the queries of the first and last wave, on the same samples, and the descriptor of all samples."""
        batch = self.options(PefllConfig).descriptor_batch
        return {
            "embed": Query(self.describe, batch, "descriptor"),
            "backward": Query(self.backward, batch, "descriptor"),
            "embed_all": Query(self.describe),
        }

    def releases(self) -> list[Release]:
        """Return the base's releases, the descriptors and the gradients."""
        described = Release(
            what="descriptors", covers=("query.embed/descriptor", "query.embed_all/descriptor"),
            note="without noise; the descriptor of a client with few classes reveals them by design",
        )  # fmt: skip
        gradients = Release(
            what="gradients of the embedding network", covers=(f"query.backward/{_EMBEDDING}*",),
            note="of the samples that the descriptor was made of, without noise",
        )  # fmt: skip
        return [*super().releases(), described, gradients]


def means_of(replies: Iterable[Message], device: torch.device) -> dict[int, Tensors]:
    """Return {node: tensors}: the sums in the good replies to a query, divided by the number of samples."""
    found = {}
    for reply in replies:
        if not reply.has_error():
            samples = scalars(reply.content.metric_records["metrics"])["num-examples"]
            sums = to_tensors(reply.content.array_records["arrays"], device)
            found[reply.metadata.src_node_id] = {name: value / samples for name, value in sums.items()}
    return found


class PefllServer(GeneratingServer):
    """Generates a model for every descriptor, and has the only optimiser."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        self.scale: tuple[float, float] | None = None
        """m and s, once the run has its first descriptor."""
        super().__init__(config, model, data)

    def descriptor_size(self, options: HypernetworkConfig, config: RunConfig, data: FederatedData) -> int:
        """Return l; for a histogram, the number of classes."""
        assert isinstance(options, PefllConfig)
        return data.dataset.num_classes if options.embedding == "histogram" else options.size(config.clients)

    def initial(self) -> Tensors:
        """Return eta_v and eta_h."""
        if self.options(PefllConfig).embedding != "network":
            return super().initial()
        dataset = self.data.dataset
        if dataset.is_text:
            raise FedsimError(
                f"strategy.embedding: a network describes images and rows, and {dataset.name} is a text; use histogram"
            )
        phi = new_embedding(self.config, dataset.input_shape, dataset.num_classes, self.size)
        eta_v = {f"{_EMBEDDING}{name}": value.detach().to(self.like) for name, value in phi.named_parameters()}
        return eta_v | super().initial()

    def standardised(self, descriptors: Mapping[int, Tensors], scale: tuple[float, float]) -> Tensor:
        """Return v (c, l)."""
        m, s = scale
        vbar = torch.stack([value["descriptor"] for value in descriptors.values()]).to(self.like)
        return (vbar - m) / s

    def scale_from(self, descriptors: Mapping[int, Tensors]) -> tuple[float, float]:
        """Return the run's m and s, or those of the first of these descriptors."""
        if self.options(PefllConfig).embedding == "constant":
            return 0.0, 1.0
        return self.scale or scale_of(next(iter(descriptors.values()))["descriptor"])

    def exchange(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[tuple[ArrayRecord | None, MetricRecord | None]]:
        """Run the three waves, and take the server's step."""
        tensors, metrics = to_tensors(arrays, self.like.device), MeanMetrics()
        eta_v = to_record({name: value for name, value in tensors.items() if name.startswith(_EMBEDDING)})
        told = ConfigRecord({**config, "reply": self.replies})
        embed = self.messages("query.embed", server_round, eta_v, config, grid.get_node_ids())
        descriptors = means_of((yield embed), self.like.device)
        if not descriptors:
            return None, None
        self.scale = self.scale_from(descriptors)
        nodes, v = list(descriptors), self.standardised(descriptors, self.scale).requires_grad_()
        leaves = {n: value.detach().requires_grad_() for n, value in tensors.items() if n.startswith(PREFIX)}
        made, own = self.models(leaves, v, nodes)
        train = self.messages("train", server_round, ArrayRecord(), told, nodes, own)
        changes = self.changes((yield train), metrics)
        gradients: dict[int, Tensors] = {node: {} for node in changes}
        if changes and len(eta_v):
            outputs = stacked(changes, nodes, made)
            g = torch.autograd.grad(list(made.values()), v, outputs, retain_graph=True)[0] / self.scale[1]
            asked = {node: to_record({"gradient": g[nodes.index(node)]}) for node in changes}
            backward = self.messages("query.backward", server_round, eta_v, config, list(asked), asked)
            gradients = means_of((yield backward), self.like.device)
        if not gradients:
            return None, None
        kept = {node: changes[node] for node in gradients}
        g_h = torch.autograd.grad(list(made.values()), list(leaves.values()), stacked(kept, nodes, made))
        total = dict(zip(leaves, g_h, strict=True))
        for name in eta_v:
            total[name] = torch.stack([gradients[node][name] for node in gradients]).sum(0)
        mean = {name: value / len(gradients) for name, value in total.items()}
        self.mean_descriptor = v.detach().mean(0)
        return to_record(self.updated(tensors, mean)), metrics.result()

    def exchange_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[MetricRecord | None]:
        """Let each client, seen or not, describe all its samples, and evaluate the model generated for it."""
        tensors = to_tensors(arrays, self.like.device)
        eta_v = to_record({name: value for name, value in tensors.items() if name.startswith(_EMBEDDING)})
        embed = self.messages("query.embed_all", server_round, eta_v, config, grid.get_node_ids())
        descriptors = means_of((yield embed), self.like.device)
        if not descriptors:
            return None
        v = self.standardised(descriptors, self.scale_from(descriptors))
        own = self.models_alone(tensors, dict(zip(descriptors, v, strict=True)))
        evaluate = self.messages("evaluate", server_round, ArrayRecord(), config, list(descriptors), own)
        return self.aggregate_evaluate(server_round, (yield evaluate))

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the base's state, with m and s."""
        tensors, values = super().state_dict()
        return tensors, {**values, "scale": None if self.scale is None else list(self.scale)}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore this state."""
        super().load_state_dict(tensors, values)
        scale = values["scale"]
        self.scale = None if scale is None else (float(scale[0]), float(scale[1]))


strategy(
    "pefll",
    PefllConfig,
    PefllClient,
    PefllServer,
    run_defaults={
        "model.name": "lenet_pfl", "training.steps": 50, "training.batch_size": 32, "training.lr": 2e-3,
        "training.momentum": 0.9, "training.weight_decay": 5e-5, "training.clip_norm": 50.0,
    },
)  # fmt: skip
