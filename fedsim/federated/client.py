"""The client half of a method: its local objective as pure functions, run by `fedsim.training`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal

from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import Options
from fedsim.federated.queries import Query
from fedsim.federated.types import Batch, Extras, Phase, State, Update
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.models.functional import FunctionalModel
from fedsim.privacy.ledger import Release


class Client:
    """The client half of FedAvg, and the base of every client half whose local work is SGD on a loss.

    One object serves all clients of a worker: it holds no client's state.
    """

    personalised = False
    """Whether clients predict with their own models, so that a run evaluates these by default."""
    masks_absent_classes = False
    """Whether the method's clients never predict a class of which they have no training sample."""
    reports: ClassVar[tuple[str, ...]] = ()
    """Names of the metrics that its losses return; the server sees each client's mean without noise."""
    sends: ClassVar[Literal["model", "normalised difference"]] = "model"
    """The meaning of the parameters that a client sends; if not "model", override `moved` and `having_moved`."""
    item: ClassVar[str] = "sample"
    """The unit of training data, which is the example of example-level privacy."""
    needs_classes = False
    """Whether the method needs classes, so that data with numbers to predict is refused."""

    def __init__(self, config: RunConfig, model: Classifier) -> None:
        self.config = config
        self.model = FunctionalModel(model)
        self.feature_dim = model.feature_dim
        self.num_classes = model.classifier.out_features
        self.initial = {name: value.detach() for name, value in model.named_parameters()}
        """The parameters of round 0, the same for all clients."""

    def options(self, kind: type[Options]) -> Options:
        """Return the method's options, with this type."""
        assert isinstance(self.config.strategy, kind)
        return self.config.strategy

    def personal(self, client: int, start: State) -> State:
        """Return the personal tensors of client `client` before its first training, under names of their own.

        They are trained together with the global parameters, stored by the engine, and never sent. If `finish` does not
        keep them, this is called again in the next round.
        """
        return State({}, {})

    def phases(self) -> Sequence[Phase]:
        """Return the phases of a client's round, in order."""
        return [Phase(self.loss)]

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return the local objective for one batch, and metrics to report; see `Loss`."""
        return batch.loss(self.model.logits(params, buffers, batch.x, train=True)), {}

    def queries(self) -> Mapping[str, Query]:
        """Return the queries that the server may send besides training and evaluation, by name.

        A method with queries declares in `releases` what the answers show: `query.NAME/TENSOR`, one item per tensor.
        """
        return {}

    def finish(self, update: Update, extras: Extras) -> Update:
        """Return what the clients send, keep and weigh; `update` holds the defaults.

        If each client had its own start, `extras.start` holds these, (clients, ...).
        """
        return update

    def moved(self, sent: Tensors, start: Tensors) -> Tensors:
        """Return U_k = θ_k − θ, the change of the parameters θ at a client, from the tensors it sent.

        This is the inverse of `having_moved`. A run's history, and the methods that replay it, use both to interpret
        what a client sent: here, its model.
        """
        return {name: sent[name] - value.to(sent[name].device) for name, value in start.items() if name in sent}

    def having_moved(self, sent: Tensors, start: Tensors, update: Tensors) -> Tensors:
        """Return what the client would have sent with the change U from `start`; other entries of `sent` stay."""
        return sent | {name: start[name] + value for name, value in update.items()}

    def releases(self) -> list[Release]:
        """Return the releases of this method: everything that a client's replies show of its data.

        Tests compare them with the replies. A method adds to this list if it sends more than the tensors it received
        and `reports`, or if it protects any of them itself. The run adds what the `privacy:` section protects.
        """
        return [
            Release(what="trained models", covers=("model",), note="sent as they are unless named as protected"),
            Release(
                what="numbers of samples",
                covers=("metrics/num-examples", "metrics/weight", "evaluation/num-examples", "query.*/num-examples"),
                note="taken to be public",
            ),
            Release(
                what="training metrics", covers=tuple(f"metrics/{name}" for name in ("loss", *self.reports)),
                note="means over a client's samples, without noise",
            ),
            Release(
                what="accuracies on clients' own test samples", covers=("evaluation/*",),
                note="without noise; eval_clients: none leaves them out",
            ),
        ]  # fmt: skip

    def plain(self, state: State, constants: Tensors) -> Tensors:
        """Return the state dict of a plain model that predicts as the first of `heads` does."""
        model = state.params | state.buffers
        return {name: value for name, value in model.items() if name.startswith(("features.", "classifier."))}

    def heads(self, state: State, constants: Tensors, x: Tensor) -> Tensors:
        """Return {name: logits (B, C)} for every way in which a client can predict; the first is the method's own."""
        return {"model": self.model.logits(state.params, state.buffers, x, train=False)}
