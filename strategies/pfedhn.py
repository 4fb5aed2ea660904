"""pFedHN: a hypernetwork generates each client's model from a learned descriptor (arXiv:2103.04628).

Server holds one descriptor v_i in R^l for each client, and h:  theta_i = h(v_i; eta_h)            (section 3.2)
Client: k local steps from theta_i; D_i = theta_i - trained theta_i                               (Algorithm 1)
Server: (v_i, eta_h) take a step along (d theta_i / d .)^T D_i, averaged over the cohort.

For a new client, h is fixed and a descriptor is fitted, from the mean of the others', in `fit_rounds` exchanges of
theta and D (section 4.2). This costs `fit_rounds` times as much as a round of training. Each evaluation of unseen
clients fits anew, and stores nothing.

Differs from the paper: one Adam for both descriptors and hypernetwork.
"""

from __future__ import annotations

import torch
from flwr.app import ArrayRecord, ConfigRecord, MetricRecord
from flwr.serverapp import Grid
from pydantic import Field

from fedsim.federated.aggregation import MeanMetrics
from fedsim.federated.exchange import Exchange
from fedsim.federated.registry import strategy
from fedsim.flower.internals import client_of
from fedsim.flower.records import Tensors, to_record, to_tensors
from fedsim.randomness import torch_draws, torch_seed
from strategies.hypernetwork import (
    PREFIX,
    GeneratedClient,
    GeneratingServer,
    HypernetworkConfig,
    ServerAdam,
    clipped,
    stacked,
)

_TABLE = f"{PREFIX}descriptors"


class PFedHNConfig(HypernetworkConfig):
    """Options of pFedHN."""

    fit_rounds: int = Field(5, ge=0)
    """Exchanges in which a descriptor is fitted to a client that was never trained."""
    fit_lr: float = Field(0.1, gt=0)
    """Learning rate of Adam in these exchanges."""


class PFedHNServer(GeneratingServer):
    """Learns a table of descriptors together with the hypernetwork."""

    def initial(self) -> Tensors:
        """Return eta_h and v; v is standard normal, as in an embedding layer."""
        with torch_draws(torch_seed(self.config.seed, "descriptors")):
            table = torch.randn(self.config.clients, self.size).to(self.like)
        return {_TABLE: table, **super().initial()}

    def exchange(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[tuple[ArrayRecord | None, MetricRecord | None]]:
        """Send each client its model, and step along the changes that come back."""
        tensors, metrics = to_tensors(arrays, self.like.device), MeanMetrics()
        leaves = {name: value.detach().requires_grad_() for name, value in tensors.items()}
        nodes = list(grid.get_node_ids())
        v = leaves[_TABLE][[client_of(node) for node in nodes]]
        made, own = self.models(leaves, v, nodes)
        told = ConfigRecord({**config, "reply": self.replies})
        train = self.messages("train", server_round, ArrayRecord(), told, nodes, own)
        changes = self.changes((yield train), metrics)
        if not changes:
            return None, None
        outputs = stacked(changes, nodes, made)
        gradients = torch.autograd.grad(list(made.values()), list(leaves.values()), outputs)
        mean = {name: value / len(changes) for name, value in zip(leaves, gradients, strict=True)}
        self.mean_descriptor = v.detach().mean(0)
        return to_record(self.updated(tensors, mean)), metrics.result()

    def exchange_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Exchange[MetricRecord | None]:
        """Evaluate the clients' models; for unseen clients, fit a descriptor first."""
        tensors, options = to_tensors(arrays, self.like.device), self.options(PFedHNConfig)
        table, first = tensors[_TABLE], self.config.clients_seen
        rows = {node: table[client_of(node)] for node in grid.get_node_ids() if client_of(node) < first}
        new = [node for node in grid.get_node_ids() if client_of(node) >= first]
        fitted: Tensors = {str(node): table[:first].mean(0) for node in new}
        adam, told = ServerAdam(options.fit_lr, fitted), ConfigRecord({**config, "reply": self.replies})
        for wave in range(options.fit_rounds if new else 0):
            leaves = {name: value.detach().requires_grad_() for name, value in fitted.items()}
            made, own = self.models(tensors, torch.stack(list(leaves.values())), new)
            # Each wave has its own round number, so that its batches differ from those of the wave before.
            train = self.messages("train", server_round + wave, ArrayRecord(), told, new, own)
            changes = self.changes((yield train), MeanMetrics())
            outputs = stacked(changes, new, made)
            gradients = torch.autograd.grad(list(made.values()), list(leaves.values()), outputs)
            each = {n: clipped({n: g}, options.server_clip)[n] for n, g in zip(leaves, gradients, strict=True)}
            fitted = adam.step(fitted, each)
        rows |= {node: fitted[str(node)] for node in new}
        own = self.models_alone(tensors, rows)
        evaluate = self.messages("evaluate", server_round, ArrayRecord(), config, list(rows), own)
        return self.aggregate_evaluate(server_round, (yield evaluate))


strategy(
    "pfedhn",
    PFedHNConfig,
    GeneratedClient,
    PFedHNServer,
    run_defaults={
        "model.name": "lenet_pfl", "training.steps": 50, "training.batch_size": 32, "training.lr": 5e-3,
        "training.momentum": 0.9, "training.weight_decay": 5e-5, "training.clip_norm": 50.0,
        "strategy.server_lr": 1e-3,
    },
)  # fmt: skip
