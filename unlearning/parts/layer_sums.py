"""The sums over samples that pruning needs: of the inputs of layers, and of those of batch norms.

Sums of several clients add up to those of all samples together (see `fedsim.models.fidelity`). So clients answer
queries, and no sample leaves them. The model in a query may be narrower than the run's own, because layers accept
any width of the tensors.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Literal

import torch
from flwr.app import ConfigRecord, Message
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.engine.inprocess import InProcessEngine
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.queries import Query
from fedsim.federated.server import Server
from fedsim.federated.staged import sum_of_answers
from fedsim.federated.types import Batch, State
from fedsim.flower import wire
from fedsim.flower.records import Tensors, to_record
from fedsim.models.base import Classifier
from fedsim.models.channels import channel_groups
from fedsim.models.fidelity import Layer, PatchSums, patches
from fedsim.privacy.ledger import Release
from fedsim.training.first_model import build_run_model
from unlearning.evaluation.batch_norm import batch_norms

What = Literal["patches", "norms"]
Ask = Callable[[What, Classifier], Tensors]
"""(sums to compute, model) -> sums over all samples; the model has the layers that were announced."""

_TOGETHER = 50  # samples whose patches are in memory at once


class LayerSums:
    """Computes the sums for one holder of samples.

    Parameters
    ----------
    model
        Gives the layers; models in queries have the same ones.
    input_shape
        Shape of one sample.
    """

    def __init__(self, model: Classifier, input_shape: tuple[int, ...]) -> None:
        readers = {c.name for group in channel_groups(model, input_shape).values() for c in group.consumers}
        self._model = copy.deepcopy(model).eval()
        self._readers: dict[str, Layer] = {n: self._model.get_submodule(n) for n in sorted(readers)}  # type: ignore[misc]
        norms = set(batch_norms(self._model))
        self._norms = {name: module for name, module in self._model.named_modules() if module in norms}

    def patches(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensors:
        """Return `PatchSums` of each layer that reads removable channels, by the layer's and the field's name."""

        def of(name: str, inputs: Tensor) -> Tensors:
            sums = PatchSums.of(patches(self._readers[name], inputs))
            return {"gram": sums.gram, "total": sums.total, "count": torch.tensor(float(sums.count)).to(sums.gram)}

        return self._watched(self._readers, of, tensors, x)

    def norms(self, tensors: Mapping[str, Tensor], x: Tensor) -> Tensors:
        """Return the sums of each batch norm's inputs (C,) and their squares (C,), and the number of positions ()."""

        def of(name: str, inputs: Tensor) -> Tensors:
            flat = inputs.double().transpose(0, 1).flatten(1)
            count = torch.tensor(float(flat.shape[1])).to(flat)
            return {"total": flat.sum(1), "squares": flat.square().sum(1), "count": count}

        return self._watched(self._norms, of, tensors, x)

    @torch.no_grad()
    def _watched(
        self, layers: Mapping[str, nn.Module], of: Callable[[str, Tensor], Tensors],
        tensors: Mapping[str, Tensor], x: Tensor,
    ) -> Tensors:  # fmt: skip
        sums: Tensors = {}

        def add(name: str, layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            for part, value in of(name, inputs[0]).items():
                key = f"{name}/{part}"
                sums[key] = sums[key] + value if key in sums else value

        hooks = [layer.register_forward_pre_hook(partial(add, name)) for name, layer in layers.items()]
        try:
            for some in torch.split(x, _TOGETHER):
                functional_call(self._model, dict(tensors), (some,), tie_weights=False)
        finally:
            for hook in hooks:
                hook.remove()
        return sums


class LayerClient(Client):
    """The client half of pruning: answers queries about the model that it receives, and trains nothing."""

    def __init__(self, config: RunConfig, model: Classifier) -> None:
        super().__init__(config, model)
        self._sums = LayerSums(model, model.input_shape)

    def queries(self) -> Mapping[str, Query]:
        """Return the queries for both sums, over all samples."""
        return {"patches": Query(self.patches), "norms": Query(self.norms)}

    def patches(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        """Return the result of `LayerSums.patches`."""
        return self._sums.patches(state.params | state.buffers, batch.x)

    def norms(self, state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
        """Return the result of `LayerSums.norms`."""
        return self._sums.norms(state.params | state.buffers, batch.x)

    def releases(self) -> list[Release]:
        """Return the release of the answers."""
        note = "sums over a client's samples, without noise"
        return [Release(what="sums of layers' inputs", covers=("query.patches/*", "query.norms/*"), note=note)]


def ask_here(model: Classifier, input_shape: tuple[int, ...], batches: Callable[[], Iterable[Tensor]]) -> Ask:
    """Return a function for sums over samples of the server itself, in batches (B, *input_shape)."""
    holder = LayerSums(model, input_shape)

    def ask(what: What, model: Classifier) -> Tensors:
        sums: Tensors = {}
        for x in batches():
            found = getattr(holder, what)(model.state_dict(), x)
            sums = {name: sums[name] + value if sums else value for name, value in found.items()}
        return sums

    return ask


def ask_clients(config: RunConfig, data: FederatedData, watch: Callable[[Message], None] | None = None) -> Ask:
    """Return a function for sums over the clients' samples; each client gets one message about all its samples.

    Parameters
    ----------
    config
        Configuration of the run.
    data
        The clients' samples; clients without samples are not asked.
    watch
        Called with every reply.
    """
    config = config.model_copy(update={"start": None})  # the model comes with the query
    worker = Worker(config, data, LayerClient)
    engine = InProcessEngine(worker, config.clients, chunk=1)  # so that one client's sums are in memory at a time
    engine.cohort = [client for client, size in enumerate(data.partition.sizes) if size]
    server = Server(config, build_run_model(config, data.dataset), data)

    def ask(what: What, model: Classifier) -> Tensors:
        nodes, arrays = engine.get_node_ids(), to_record(dict(model.state_dict()))
        wave = server.messages(f"{wire.QUERY}{what}", config.rounds, arrays, ConfigRecord(), nodes)

        def replies() -> Iterable[Message]:
            for reply in engine.stream(wave):
                if reply.has_error():
                    reason = (reply.error.reason or "no reason given").splitlines()[0]
                    raise FedsimError(f"--data train: a client cannot answer ({reason}); use --data synthetic")
                if watch is not None:
                    watch(reply)
                yield reply

        sums, _ = sum_of_answers(replies())
        return sums

    return ask
