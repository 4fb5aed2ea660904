"""Workers and Flower client apps for the tests of engines; importable by the processes of Ray."""

import os
import signal
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.engine.reply import Reply
from fedsim.engine.vigil import processes
from fedsim.engine.worker import Worker
from fedsim.flower.apps import AppWorker
from fedsim.flower.internals import node_of
from fedsim.flower.records import to_record, to_tensors


class EchoWorker:
    """Answers client c with c, the number of its message and the process; counts a client's messages in its state."""

    def __init__(self, log: Path | None = None, delay_s: Sequence[float] = ()) -> None:
        self.log, self.delay_s = log, delay_s
        self.chunks: list[list[int]] = []

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        self.chunks.append(list(clients))
        if self.log is not None:
            with self.log.open("a") as file:
                file.write(f"{clients[0]}\n")
        if self.delay_s:
            time.sleep(self.delay_s[clients[0] % len(self.delay_s)])
        replies = []
        for content, client, state in zip(contents, clients, states, strict=True):
            seen = int(state.metric_records["seen"]["times"]) if state else 0
            told = content.config_records["config"]["number"] if "config" in content else 0
            told_back = {"client": client, "told": told, "seen": seen, "process": os.getpid()}
            answer = RecordDict({"metrics": MetricRecord(told_back)})
            replies.append(Reply(answer, state=RecordDict({"seen": MetricRecord({"times": seen + 1})})))
        return replies


class LethalWorker(EchoWorker):
    """Kills its process when it is given `victim`."""

    def __init__(self, victim: int) -> None:
        super().__init__()
        self.victim = victim

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        if self.victim in clients:
            os.kill(os.getpid(), signal.SIGKILL)
        return super().run_chunk(kind, contents, clients, states)


class MortalWorker(Worker):
    """Trains, but dies having trained a chunk, before it answers: once for each file in `fates`."""

    def __init__(self, fates: Path, config: RunConfig, data: FederatedData) -> None:
        super().__init__(config, data)
        self.fates = fates

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        replies = super().run_chunk(kind, contents, clients, states)
        for fate in self.fates.glob(f"{kind}-*-{clients[0]}"):
            if int(fate.name.split("-")[1]) <= int(contents[0].config_records["config"]["server-round"]):
                fate.unlink()
                os.kill(os.getpid(), signal.SIGKILL)
        return replies


class BigWorker:
    """Answers with a model of `size` float32 numbers, all equal to the client's number."""

    def __init__(self, size: int) -> None:
        self.size = size

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        return [
            Reply(
                RecordDict(
                    {
                        "arrays": to_record({"w": torch.full((self.size,), float(client))}),
                        "metrics": MetricRecord({"num-examples": 1, "weight": 1.0}),
                    }
                )
            )
            for client in clients
        ]


def unbuildable() -> AppWorker:
    raise RuntimeError("no such device: cuda:7")


def foreign_app() -> ClientApp:
    """Return a client app as a user of Flower writes it; it knows nothing of fedsim.

    Each client adds 1 + its number to the model and counts in its state how often it was trained. Client 5 raises the
    second time, having changed its state.
    """
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        times = int(context.state.metric_records["seen"]["times"]) + 1 if "seen" in context.state else 1
        context.state["seen"] = MetricRecord({"times": times})
        if client == 5 and times == 2:
            raise ValueError("client 5 has had enough")
        weights = [array + 1 + client for array in message.content.array_records["arrays"].to_numpy_ndarrays()]
        reply = {"arrays": ArrayRecord(weights), "metrics": MetricRecord({"num-examples": 1 + client, "times": times})}
        return Message(RecordDict(reply), reply_to=message)

    @app.evaluate()
    def evaluate(message: Message, context: Context) -> Message:
        weights = message.content.array_records["arrays"].to_numpy_ndarrays()
        measured = {"num-examples": 1, "sum": float(sum(array.sum() for array in weights))}
        return Message(RecordDict({"metrics": MetricRecord(measured)}), reply_to=message)

    @app.query("keys")
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"key": MetricRecord({"node": context.node_id})}), reply_to=message)

    return app


def vandal_app() -> ClientApp:
    """Return an app whose clients report what they received, and then spoil it."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        received = float(arrays["w"].numpy().sum())
        arrays["w"] = Array(np.full(3, 99.0))
        message.content["more"] = MetricRecord({"x": 1})
        context.state["spoilt"] = MetricRecord({"x": 1})
        answer = {"metrics": MetricRecord({"received": received, "records": len(message.content)})}
        return Message(RecordDict(answer), reply_to=message)

    return app


def foreign_worker() -> AppWorker:
    return AppWorker(foreign_app(), 8)


def tensors_of(message: Message) -> dict[str, torch.Tensor]:
    return to_tensors(message.content.array_records["arrays"])


def numbered(clients: list[int], kind: str = "train") -> list[Message]:
    """Return a message to each client; message i carries the number i."""
    return [
        Message(RecordDict({"config": ConfigRecord({"number": i})}), node_of(client), kind)
        for i, client in enumerate(clients)
    ]


def own_workers(*, busy: bool) -> list[int]:
    """Return the process ids of this session's Ray actors: grandchildren of this process, by what they are called."""
    title = "ray::FedsimWorker.run_chunk" if busy else "ray::FedsimWorker"
    table = processes()
    return [
        pid
        for pid, (parent, name) in table.items()
        if name.startswith(title) and table.get(parent, (0, ""))[0] == os.getpid()
    ]
