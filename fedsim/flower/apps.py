"""Adapters between fedsim and Flower: a run's two halves as Flower apps, and any `ClientApp` as a worker."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterable, Sequence

from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedsim.engine.reply import Reply
from fedsim.engine.worker import Worker
from fedsim.federated.exchange import conduct
from fedsim.federated.server import Server
from fedsim.flower.internals import client_context, error_reply, new_run, node_of
from fedsim.flower.records import copy_records, to_record, to_tensors
from fedsim.flower.wire import PARTITION_ID


def client_app(worker: Worker) -> ClientApp:
    """Return a run's client half as a Flower `ClientApp`, which answers one message at a time."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        client = int(context.node_config[PARTITION_ID])
        kind = message.metadata.message_type
        reply = worker.run_chunk(kind, [message.content], [client], [context.state])[0]
        if reply.content is None:
            return error_reply(message, reply.error)
        if reply.state is not None:
            context.state = reply.state
        return Message(reply.content, reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    for query in worker.client.queries():
        app.query(query)(answer)
    return app


class FlowerStrategy(Strategy):
    """A server half for Flower's own round loop: `start(grid, ...)`, as under `flwr run`.

    A round of Flower is one wave of messages, but an exchange may need several. So `configure_train` sends all waves of
    the exchange over the grid itself, and gives Flower an empty wave.
    """

    def __init__(self, server: Server, timeout_s: float = 3600.0) -> None:
        self.server, self.timeout_s = server, timeout_s
        self._trained: tuple[ArrayRecord | None, MetricRecord | None] = (None, None)
        self._evaluated: MetricRecord | None = None

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Let the server prepare the round, then run the whole exchange; return no messages."""
        prepared = self.server.prepare_round(server_round, to_tensors(arrays), lambda what, done, total: None)
        self._trained = conduct(self.server.exchange(server_round, to_record(prepared), config, grid), self._over(grid))
        return []

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Return the global model and the metrics of the exchange."""
        return self._trained

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Run the evaluation by clients; return no messages."""
        exchange = self.server.exchange_evaluate(server_round, arrays, config, grid)
        self._evaluated = conduct(exchange, self._over(grid))
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        """Return the metrics of the evaluation."""
        return self._evaluated

    def summary(self) -> None:
        """Do nothing."""

    def _over(self, grid: Grid) -> Callable[[list[Message]], Iterable[Message]]:
        return lambda messages: grid.send_and_receive(messages, timeout=self.timeout_s) if messages else []


class AppWorker:
    """Answers chunks with a Flower `ClientApp`, one client after another."""

    def __init__(self, app: ClientApp, num_clients: int) -> None:
        self.app, self.num_clients = app, num_clients
        new_run()  # so that this process can build messages

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        """Return one reply per client. A client that raises gets an error reply and keeps its old state."""
        return [self._call(kind, *one) for one in zip(contents, clients, states, strict=True)]

    def _call(self, kind: str, content: RecordDict, client: int, state: RecordDict) -> Reply:
        # Copies, so that a client cannot change other clients' records when it edits its message or its state.
        message = Message(copy_records(content), node_of(client), kind)
        context = client_context(client, self.num_clients, copy_records(state))
        try:
            reply = self.app(message, context)
        except Exception as error:
            return Reply(None, "".join(traceback.format_exception(error)))
        if reply.has_error():
            return Reply(None, reply.error.reason or "")
        return Reply(reply.content, state=context.state if context.state or state else None)
