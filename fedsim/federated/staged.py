"""The base of methods for classes that arrive in stages: one head for all classes, and masks for the present ones.

The head has a row for every class from the start, so shapes do not change. Losses use masks to select the classes of
the stage or those of earlier stages; masked logits have no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from flwr.app import Message
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.server import Server, Working
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors, scalars, to_tensors
from fedsim.models.base import Classifier
from fedsim.randomness import torch_draws, torch_seed

NEW, OLD = "stage.new", "stage.old"
"""Constants: (C,) bool, the classes of the stage, and those of the stages before."""
PREVIOUS = "previous/"
"""Prefix for the names of the constants that are the model at the end of the previous stage."""

_NEVER = -1e9  # not -inf, which times a probability of 0 would be NaN


def masked(logits: Tensor, classes: Tensor) -> Tensor:
    """Return logits (..., C); classes outside of `classes`, (C,) bool, get values below all others."""
    return torch.where(classes, logits, _NEVER)


def distillation(logits: Tensor, teacher_logits: Tensor, classes: Tensor, temperature: float) -> Tensor:
    """Return -sum_c q_c log p_c of each sample, (B,): q, p are softmax(logits (B, C) / temperature) over some classes.

    The gradient is that of KL(q || p), without the factor temperature^2.
    """
    q = masked(teacher_logits / temperature, classes).softmax(1)
    log_p = masked(logits / temperature, classes).log_softmax(1)
    return -(q * log_p).sum(1)


def new_rows(count: int, features: int, seed: int, stage: int) -> Tensor:
    """Draw rows of a linear layer, (count, features): Kaiming's uniform distribution of gain 1, |w| <= sqrt(3/d)."""
    bound = math.sqrt(3 / features)
    with torch_draws(torch_seed(seed, "new rows", stage)):
        return torch.empty(count, features).uniform_(-bound, bound)


def sum_of_answers(replies: Iterable[Message]) -> tuple[Tensors, int]:
    """Return the float64 sums over the good replies to a query, in their order, and the total number of samples."""
    sums: Tensors = {}
    count = 0
    for reply in replies:
        if not reply.has_error():
            for name, value in to_tensors(reply.content.array_records["arrays"]).items():
                sums[name] = sums.get(name, 0.0) + value.double()
            count += int(scalars(reply.content.metric_records["metrics"])["num-examples"])
    return sums, count


class StagedClient(Client):
    """Learns only the classes of the stage: the softmax is over these classes."""

    needs_classes = True

    def new_classes_loss(self, logits: Tensor, extras: Extras, batch: Batch) -> Tensor:
        """Return the mean cross-entropy over the classes of the stage, from logits (B, C), shape ()."""
        return batch.cross_entropy(masked(logits, extras.constants[NEW]))

    def is_first_stage(self, extras: Extras) -> bool:
        """Return whether this is the first stage; it does not depend on values of tensors."""
        return f"{PREVIOUS}classifier.weight" not in extras.constants

    def previous_logits(self, extras: Extras, x: Tensor) -> Tensor:
        """Return the logits (B, C) of the model at the end of the previous stage, in evaluation mode."""
        start = len(PREVIOUS)
        tensors = {name[start:]: value for name, value in extras.constants.items() if name.startswith(PREVIOUS)}
        return self.model.logits(tensors, tensors, x, train=False).detach()


class StagedServer(Server):
    """Keeps the model at the end of each stage for the next one, which starts with new rows for its classes."""

    keeps_previous = True
    """Whether clients need the model at the end of the previous stage."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        self.stage = 0
        self.previous: Tensors = {}
        if data.stages is not None and data.stages.keep:
            name = config.strategy.name
            raise FedsimError(
                f"data.stages.keep: {name} learns from a stage's own classes only; use fedavg to rehearse"
            )

    def prepare_round(self, server_round: int, tensors: Tensors, working: Working) -> Tensors:
        """Begin the round's stage if it is a new one."""
        stage = 0 if self.data.stages is None else self.data.stages.of(server_round)
        self.measured = {}
        if stage != self.stage:
            tensors = self.begin_stage(stage, tensors, working)
            self.stage = stage
        return tensors

    def begin_stage(self, stage: int, tensors: Tensors, working: Working) -> Tensors:
        """Return the initial model of a stage: the previous model, with new rows for the stage's classes."""
        if self.keeps_previous:
            self.previous = dict(tensors)
        rows = torch.from_numpy(self.classes(stage))
        weight, bias = (tensors[name].clone() for name in ("classifier.weight", "classifier.bias"))
        drawn = new_rows(len(rows), weight.shape[1], self.config.seed, stage)
        weight[rows], bias[rows] = drawn.to(weight), 0.0
        return {**tensors, "classifier.weight": weight, "classifier.bias": bias}

    def classes(self, stage: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the classes of a stage, ascending."""
        stages = self.data.stages
        return np.arange(self.data.dataset.num_classes) if stages is None else stages.blocks[stage]

    def known(self, stage: int) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the classes that have arrived by the end of a stage, ascending."""
        stages = self.data.stages
        return self.classes(stage) if stages is None else stages.begun(stage)

    def constants(self) -> Tensors:
        """Return the masks, and the model at the end of the previous stage."""
        every = np.arange(self.data.dataset.num_classes)
        before = self.known(self.stage - 1) if self.stage else every[:0]
        masks = {NEW: np.isin(every, self.classes(self.stage)), OLD: np.isin(every, before)}
        device = next(iter(self.first.params.values())).device
        sent = {name: torch.from_numpy(mask).to(device) for name, mask in masks.items()}
        return sent | {PREVIOUS + name: value for name, value in self.previous.items()}

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the stage and the model at the end of the previous one."""
        return {PREVIOUS + name: value for name, value in self.previous.items()}, {"stage": self.stage}

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore the stage and the model at the end of the previous one."""
        like, start = next(iter(self.first.params.values())), len(PREVIOUS)
        self.stage = values["stage"]
        self.previous = {n[start:]: v.to(like.device) for n, v in tensors.items() if n.startswith(PREVIOUS)}
