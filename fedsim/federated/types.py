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
    """(B', *input_shape) float32, normalised samples that the server sent to all clients; None without any."""

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of one value per sample, (B,) -> (), over all samples except padding."""
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
        # Like F.cross_entropy, which under vmap needs a dozen more operations to find labels to ignore.
        log_p = F.log_softmax(logits, 1)
        return self.mean(-log_p.gather(1, self.y[:, None]).squeeze(1))

    def loss(self, outputs: Tensor) -> Tensor:
        """Return the mean loss: cross-entropy of (B, C), binary cross-entropy of (B, L), squared error of (B, 1)."""
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

The function must be pure, except that it updates BatchNorm's buffers in place. It runs under `torch.func.vmap`, one
client per lane: it must not call `.item()` or branch on a tensor's value. Its operations are recorded and replayed. So
a Python value that changes must be passed as a tensor, such as `Extras.server_round`, or be named in
`Phase.declares`."""


Stream = Literal["labelled", "unlabelled"]
"""One of the two parts of a client's training samples; without `data.labelled_fraction` all are labelled."""


class Annotation(NamedTuple):
    """Notes on samples, made before a phase trains on them."""

    keep: Tensor
    """(B,) bool: the samples that the phase learns from."""
    notes: Tensors
    """{name: (B, ...)}."""


Annotate = Callable[[Tensors, Tensors, Extras, Tensor], Annotation]
"""(params, buffers, extras, x (B, *input_shape)) -> annotation, from one client's state at the start of the phase."""

Audit = Callable[[Annotation, Tensor], Tensors]
"""(annotation, true labels (B,)) -> metrics {name: ()}, NaN for one that cannot be computed.

It is called after the round with labels that the client does not know. Its result is reported, but not used."""


@dataclass(frozen=True)
class Phase:
    """One stage of a client's round: the parameters it trains, its loss and its length. Each has a fresh optimiser."""

    loss: Loss
    trains: Callable[[str], bool] = lambda name: True
    epochs: int | None = None
    """Passes over the client's data; `training.epochs` by default."""
    steps: int | None = None
    """SGD steps instead of passes; `training.steps` by default, if neither is given."""
    fresh: bool = False
    """Whether each step draws its batch independently, instead of from shuffled passes; needs `steps`."""
    streams: tuple[Stream, ...] = ("labelled",)
    """Sources of samples. With several streams, each gives a batch to every step, and the batches are joined."""
    strong: StrongView | None = None
    """The augmentation for `Batch.strong`."""
    annotate: Annotate | None = None
    """Called once before the phase on all samples of its only stream, without augmentation and gradients."""
    leave_out: bool = True
    """Whether samples that `annotate` does not keep are left out of all batches; if not, `Batch.notes["keep"]` marks
    the kept ones."""
    audit: Audit | None = None
    """Measures the annotation."""
    declares: Hashable = ()
    """Python values that the loss reads and that change between rounds; recorded steps are reused for equal ones."""
    objective: Callable[[str], str] = lambda name: ""
    """The part of the loss that moves a parameter, if the loss is a sum of parts without common parameters. The
    gradient of each part is clipped separately."""
    stays: Callable[[str], bool] = lambda name: False
    """Which of the trained parameters never leave the client and change nothing that leaves it, now or later. They need
    no protection."""
    shared: str | None = None
    """Name of the constant, (N, *input_shape) raw samples, from which `Batch.shared` is drawn while that constant
    exists: one batch beside each of the client's own, in shuffled passes."""
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
