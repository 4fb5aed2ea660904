"""torch's optimisers for stacked parameters (clients, ...), of which any rows can be updated."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim.adam import adam
from torch.optim.sgd import sgd

from fedsim.config.run import RunConfig, TrainingConfig
from fedsim.errors import FedsimError
from fedsim.federated.types import per_client
from fedsim.flower.records import Tensors

_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8  # torch.optim.Adam's defaults


class Optimizer:
    """SGD, Adam or AdamW; its state has the shape of the parameters, so that any slice of clients can take a step.

    The learning rate is that of the schedule for the round; outside of rounds it is the configured rate.
    """

    def __init__(self, config: TrainingConfig, params: Tensors, server_round: int = 0) -> None:
        self.config, self.lr = config, config.lr_at(server_round)
        slots: tuple[str, ...] = ("mean", "square")
        if config.optimizer == "sgd":
            slots = ("momentum",) if config.momentum else ()
        self.state = {slot: {name: torch.zeros_like(value) for name, value in params.items()} for slot in slots}

    @torch.no_grad()
    def step(self, params: Tensors, grads: Sequence[Tensor], state: dict[str, Tensors], number: int) -> None:
        """Update `params` and `state` in place; `number` steps were taken before."""
        config = self.config
        values = list(params.values())
        if config.optimizer == "sgd":
            # A zero buffer makes the first step's momentum the gradient itself, as in torch.optim.SGD.
            momenta: list[Tensor | None] = [state["momentum"][n] if config.momentum else None for n in params]
            sgd(values, list(grads), momenta, foreach=True, weight_decay=config.weight_decay,
                momentum=config.momentum, lr=self.lr, dampening=0.0, nesterov=config.nesterov,
                maximize=False)  # fmt: skip
        else:
            means, squares = ([state[slot][name] for name in params] for slot in ("mean", "square"))
            counters = [torch.tensor(float(number)) for _ in values]
            adam(values, list(grads), means, squares, [], counters, foreach=True, amsgrad=False, maximize=False,
                 beta1=_BETA1, beta2=_BETA2, eps=_EPSILON, lr=self.lr, weight_decay=config.weight_decay,
                 decoupled_weight_decay=config.optimizer == "adamw")  # fmt: skip


def clip(grads: Sequence[Tensor], max_norm: float, objectives: Sequence[str] = ()) -> list[Tensor]:
    """Return gradients (clients, ...) scaled, per client, to a norm of at most `max_norm`.

    The norm is taken over all tensors of one objective; without `objectives`, (tensors,), over all tensors.
    """
    parts = objectives or [""] * len(grads)
    factors = {}
    for part in dict.fromkeys(parts):
        own = [grad for grad, other in zip(grads, parts, strict=True) if other == part]
        squares = torch.stack([grad.flatten(1).square().sum(1) for grad in own]).sum(0)
        factors[part] = (max_norm / squares.sqrt().clamp_min(1e-12)).clamp_max(1.0)
    scaled = zip(grads, (factors[part] for part in parts), strict=True)
    return [grad * per_client(factor, grad) for grad, factor in scaled]


def require_sgd(config: RunConfig) -> None:
    """Raise FedsimError if the optimiser is not SGD: the method derives gradients from the steps of SGD."""
    if config.training.optimizer != "sgd":
        name, got = config.strategy.name, config.training.optimizer
        raise FedsimError(f"training.optimizer: {name} reads gradients off the steps of SGD; set sgd, got {got}")


def gradient_weight(steps: Tensor, momentum: float, nesterov: bool = False) -> Tensor:
    """Return the total weight of gradients in `steps` steps of SGD, float64: sum_i (1 - momentum^i) / (1 - momentum).

    Without momentum it is the number of steps; with momentum up to 1 / (1 - momentum) times that (arXiv:2007.07481).
    Nesterov's momentum applies each gradient once more than that: step i is the (i + 1)-th of the sum.
    """
    steps = steps.double()
    if nesterov:
        return gradient_weight(steps + 1, momentum) - 1
    return (steps - momentum * (1 - momentum**steps) / (1 - momentum)) / (1 - momentum)
