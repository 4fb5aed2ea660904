"""Data types that the two halves of a method, the trainer and the engines exchange."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from fedsim.data.config import StrongView
from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.models.objective import has_several_labels, label_losses


class State(NamedTuple):
    """Named parameters (trained) and buffers (such as BatchNorm's running statistics)."""

    params: Tensors
    buffers: Tensors

    def merged(self, other: State) -> State:
        """Return this state with the entries of `other` added."""
        return State(self.params | other.params, self.buffers | other.buffers)


class Batch(NamedTuple):
    """Samples of one step of one client."""

    x: Tensor
    """(B, *input_shape) float32, normalised."""
    y: Tensor
    """(B,) int64 class indices, -1 if the client does not know the label; (B,) numbers in the dtype of `x`; or (B, L)
    uint8 labels, 0 or 1."""
    mask: Tensor | None = None
    """(B,) float32: 1 for a sample, 0 for padding; None if there is no padding."""
    strong: Tensor | None = None
    """(B, *input_shape) float32, the strongly augmented samples, if the phase requests them."""
    notes: Tensors = {}  # noqa: RUF012 -- never written to
    """{name: (B, ...)}: the notes of the phase's `annotate` on each sample."""
    shared: Tensor | None = None
    """(B', *input_shape) float32, normalised samples that the server sent to all; None where it sent none."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of one value per sample, (B,) -> (), over the samples that are no padding."""
        return values.mean() if self.mask is None else (values * self.mask).sum() / self.mask.sum()

    def mean_of(self, values: Tensor, some: Tensor) -> Tensor:
        """Return the mean over the samples in `some`, (B,) bool; 0 if there are none."""
        weights = some.to(values.dtype) if self.mask is None else some * self.mask
        return (values * weights).sum() / weights.sum().clamp_min(1.0)

    def cross_entropy(self, logits: Tensor) -> Tensor:
        """Return the mean cross-entropy of logits (B, C) against the labels, shape ()."""
        if self.y.is_floating_point():
            raise FedsimError("strategy.name: this method needs classes, and the data has numbers; try fedavg")
        if has_several_labels(self.y):
            raise FedsimError("strategy.name: this method needs one class for each sample; try fedavg")
        # As F.cross_entropy, which under vmap takes a dozen operations more to look for labels to leave out.
        log_p = F.log_softmax(logits, 1)
        return self.mean(-log_p.gather(1, self.y[:, None]).squeeze(1))

    def loss(self, outputs: Tensor) -> Tensor:
        """Return the mean loss: cross-entropy of logits (B, C), binary of (B, L), or squared error of (B, 1)."""
        if self.y.is_floating_point():
            return self.mean((outputs[:, 0] - self.y).square())
        if has_several_labels(self.y):
            return self.mean(label_losses(outputs, self.y))
        return self.cross_entropy(outputs)


class Extras(NamedTuple):
    """Further inputs of a local objective that are not trained."""

    start: Tensors
    """The global parameters at the start of the round, or the client's own ones if the server sent such."""
    constants: Tensors
    """Tensors that the server sent besides the model, the same for all clients."""
    stacked: bool = False
    """Whether `start` contains the tensors of several clients, (clients, ...); never in a loss."""
    server_round: Tensor = torch.ones(())
    """The number of the round, from 1, float32 (), for coefficients that depend on it. A Python number would become a
    constant of the recorded step; see `Phase.declares`."""

    def of(self, lane: int) -> Extras:
        """Return the inputs of one client."""
        start = {name: value[lane] for name, value in self.start.items()} if self.stacked else self.start
        return Extras(start, self.constants, server_round=self.server_round)


Loss = Callable[[Tensors, Tensors, Extras, Batch], tuple[Tensor, Tensors]]
"""(params, buffers, extras, batch) -> (loss (), metrics {name: ()}); metrics `family:member` share a plot.

Pure, but for BatchNorm's buffers, which are updated in place. It runs under `torch.func.vmap`, one client a lane:
no `.item()`, no branch on a tensor's value. The operations that it comes to are recorded and replayed, so a Python
value that changes must come as a tensor, such as `Extras.server_round`, or be named in `Phase.declares`."""


Stream = Literal["labelled", "unlabelled"]
"""One of the two parts of a client's training samples; without `data.labelled_fraction` all are labelled."""


class Annotation(NamedTuple):
    """Notes on samples, made before a phase trains on them."""

    keep: Tensor
    """(B,) bool: which samples the phase is to learn from."""
    notes: Tensors
    """{name: (B, ...)}."""


Annotate = Callable[[Tensors, Tensors, Extras, Tensor], Annotation]
"""(params, buffers, extras, x (B, *input_shape)) -> annotation, of one client's state at the beginning of the phase."""

Audit = Callable[[Annotation, Tensor], Tensors]
"""(annotation, true labels (B,)) -> metrics {name: ()}, NaN for one that cannot be had.

Called after the round with labels that the client does not know; what it returns is reported, and used for nothing."""


@dataclass(frozen=True)
class Phase:
    """One stage of a client's round: which parameters follow which loss, for how long. Each has a fresh optimiser."""

    loss: Loss
    trains: Callable[[str], bool] = lambda name: True
    epochs: int | None = None
    """Passes over the client's data; `training.epochs` by default."""
    steps: int | None = None
    """SGD steps, in place of passes; `training.steps` by default, if neither is given."""
    fresh: bool = False
    """Whether each of a number of steps draws its batch anew, and not the next of shuffled passes."""
    streams: tuple[Stream, ...] = ("labelled",)
    """Where samples come from; of several streams, each gives a batch to every step, and they are joined."""
    strong: StrongView | None = None
    """The augmentation that makes `Batch.strong`."""
    annotate: Annotate | None = None
    """Called once before the phase on all samples of its only stream, not augmented, without gradients."""
    leave_out: bool = True
    """Whether samples not kept by `annotate` stay out of all batches; else `Batch.notes["keep"]` tells them."""
    audit: Audit | None = None
    """Measures the annotation."""
    declares: Hashable = ()
    """Python values that the loss reads and that change between rounds: a recorded step serves for equal ones only."""
    objective: Callable[[str], str] = lambda name: ""
    """Which part of the loss moves a parameter, where it is a sum of parts that share none: each is clipped alone."""
    stays: Callable[[str], bool] = lambda name: False
    """Which of the parameters it trains never leave the client and change nothing that does, now or in a later round:
    they need no protection."""
    shared: str | None = None
    """Name of the constant, (N, *input_shape) of raw samples, that `Batch.shared` is drawn from, as long as there is
    such a constant: one batch beside each of the client's own, in shuffled passes."""
    shared_batch: int = 0
    """Samples in `Batch.shared`; all of them if there are fewer."""


class Update(NamedTuple):
    """The results of clients that were trained together; tensors are stacked, (clients, ...)."""

    sent: Tensors
    """Tensors for the server, by name: the trained global tensors, and those that a method adds."""
    kept: State
    """Personal tensors, which clients keep for their next round."""
    weights: Tensor
    """(clients,) float64 on the CPU: weights in the server's mean, the clients' numbers of samples."""
    steps: Tensor
    """(clients,) float32: numbers of optimiser steps."""
    samples: Tensor
    """(clients, phases) float64 on the CPU: numbers of different samples of each phase."""
    drawn: Tensor
    """(clients, phases) float64 on the CPU: total sizes of the batches of each phase."""


def per_client(values: Tensor, like: Tensor) -> Tensor:
    """Return values (clients,) in the shape that multiplies stacked tensors such as `like`, (clients, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))
