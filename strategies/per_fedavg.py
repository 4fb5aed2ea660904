"""Per-FedAvg: a global model that one local step adapts to a client (arXiv:2002.07948).

    min_w mean_i F_i(w - alpha grad F_i(w))                                                        (eq. 3)

Client, each step with samples D, D', D'' of its own:  w' = w - alpha grad f(w; D),  d = grad f(w'; D'), then

    hessian none (FO):   w <- w - lr d                                                              (section 5)
    hessian free (HF):   w <- w - lr (d - alpha [grad f(w + delta d; D'') - grad f(w - delta d; D'')] / (2 delta))

Server: w as FedAvg. In evaluations, clients predict with w itself. `fedsim personalize RUN --adapt-steps 1` takes the
step that w is trained for, with `training.lr`.

Differs from the paper: D, D' and D'' are every third sample of the batch (FO: D and D', every second). If a part has no
sample, the whole batch replaces it.
"""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.func import grad

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors


class PerFedAvgConfig(StrategyConfig):
    """Options of Per-FedAvg."""

    alpha: float = Field(0.01, gt=0)
    """Size of the step that adapts the model to a client."""
    hessian: Literal["none", "free"] = "free"
    """none: first order; free: Hessian products from differences of gradients."""
    delta: float = Field(1e-3, gt=0)
    """Step size of these differences."""


def part_of(batch: Batch, part: int, parts: int) -> Batch:
    """Return every `parts`-th sample of a batch, starting at `part`, as weights; the whole batch if there is none."""
    there = torch.ones(len(batch.y), dtype=batch.x.dtype, device=batch.x.device) if batch.mask is None else batch.mask
    mine = there * (torch.arange(len(there), device=there.device) % parts == part)
    return batch._replace(mask=torch.where(mine.sum() > 0, mine, there))


def moved(params: Tensors, direction: Tensors, step: float) -> Tensors:
    """Return params + step * direction."""
    return {name: value + step * direction[name] for name, value in params.items()}


class PerFedAvgClient(Client):
    """Descends the loss after a local step."""

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return f(w'; D'), with a gradient of the chosen kind."""
        options = self.options(PerFedAvgConfig)
        parts = 2 if options.hessian == "none" else 3

        def gradient(w: Tensors, part: int) -> Tensors:
            def f(own: Tensors) -> Tensor:
                spare = {name: value.clone() for name, value in buffers.items()}  # batch norm must count a step once
                return part_of(batch, part, parts).loss(self.model.logits(own, spare, batch.x, train=True))

            found: Tensors = grad(f)(w)
            return found

        w = {name: value.detach() for name, value in params.items()}
        adapted = moved(w, gradient(w, 0), -options.alpha)
        value = part_of(batch, 1, parts).loss(self.model.logits(adapted, buffers, batch.x, train=True))
        direction = gradient(adapted, 1)
        if options.hessian == "free":
            ahead, behind = (gradient(moved(w, direction, sign * options.delta), 2) for sign in (1.0, -1.0))
            scale = options.alpha / (2 * options.delta)
            direction = {name: d - scale * (ahead[name] - behind[name]) for name, d in direction.items()}
        linear = torch.stack([(direction[name].detach() * params[name]).sum() for name in params]).sum()
        return value.detach() + (linear - linear.detach()), {}


strategy("per_fedavg", PerFedAvgConfig, PerFedAvgClient, Server)
