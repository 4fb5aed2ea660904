"""A method of several waves for the tests of exchanges and queries; importable by the processes of Ray."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Message

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.engine.worker import Worker
from fedsim.federated import registry
from fedsim.federated.client import Client
from fedsim.federated.queries import Query
from fedsim.federated.registry import load_strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, State
from fedsim.flower.internals import client_of, node_of
from fedsim.flower.records import Tensors, to_record, to_tensors

UNWILLING = 3
"""The client that cannot answer the query `refused`."""


def pixel_sums(state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
    scale = own.get("scale", torch.ones(()))
    return {"pixels": scale * batch.x.flatten(1).sum(0), "labels": torch.bincount(batch.y, minlength=10)}


def refuse(state: State, own: Tensors, constants: Tensors, batch: Batch) -> Tensors:
    if own["number"] == UNWILLING:
        raise ValueError("not this one")
    return {"number": own["number"]}


class AskingClient(Client):
    def queries(self) -> Mapping[str, Query]:
        return {
            "all": Query(pixel_sums),
            "some": Query(pixel_sums, batch=5, address="five"),
            "same": Query(pixel_sums, batch=5, address="five"),
            "others": Query(pixel_sums, batch=5, address="five more"),
            "refused": Query(refuse),
        }


class AskingServer(Server):
    """Asks, asks again, and trains with each client's first answer in hand; client k is sent the scale k + 1."""

    waves: tuple[str, ...] = ("query.all", "query.some")
    replies = "updates"

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        self.answers: dict[tuple[str, int], Tensors] = {}
        self.asked: list[tuple[str, list[int]]] = []

    def exchange(self, server_round: int, arrays: ArrayRecord, config: Any, grid: Any) -> Any:
        nodes = grid.get_node_ids()
        own = {node: to_record({"scale": torch.tensor(client_of(node) + 1.0),
                                "number": torch.tensor(client_of(node))}) for node in nodes}  # fmt: skip
        for kind in self.waves:
            messages = self.messages(kind, server_round, arrays, config, nodes, own)
            self.asked.append((kind, [client_of(node) for node in nodes]))
            for reply in (yield messages):
                if not reply.has_error():
                    client = client_of(reply.metadata.src_node_id)
                    self.answers[kind, client] = to_tensors(reply.content.array_records["arrays"])
        return self.aggregate_train(server_round, (yield self.configure_train(server_round, arrays, config, grid)))


class PatchedWorker(Worker):
    """Works for the asking method in the place of fedavg, in a process that does not know it."""

    def __init__(self, config: RunConfig, data: FederatedData) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(registry._strategies, "fedavg", replace(load_strategy("fedavg"), client=AskingClient))
            super().__init__(config, data)


def messages_to(clients: Iterable[int], messages: Iterable[Message]) -> list[Message]:
    chosen = {node_of(client) for client in clients}
    return [message for message in messages if message.metadata.dst_node_id in chosen]
