"""Both directions between fedsim and Flower: a run's clients as a `ClientApp`, and any `ClientApp` as a worker."""

from __future__ import annotations

import traceback
from collections.abc import Sequence

from flwr.app import Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fedsim.engine.worker import Reply, Worker
from fedsim.flower.internals import client_context, error_reply, new_run, node_of
from fedsim.flower.records import copy_records


def client_app(worker: Worker) -> ClientApp:
    """Return a run's client half as Flower's own engines and deployments take it, one message at a time."""
    app = ClientApp()

    def answer(message: Message, context: Context) -> Message:
        client = int(context.node_config["partition-id"])
        kind = message.metadata.message_type
        reply = worker.run_chunk(kind, [message.content], [client], [context.state])[0]
        if reply.content is None:
            return error_reply(message, reply.error)
        if reply.state is not None:
            context.state = reply.state
        return Message(reply.content, reply_to=message)

    app.train()(answer)
    app.evaluate()(answer)
    return app


class AppWorker:
    """Answers chunks with a Flower `ClientApp`, client after client."""

    def __init__(self, app: ClientApp, num_clients: int) -> None:
        self.app, self.num_clients = app, num_clients
        new_run()  # whose messages this process is to build

    def run_chunk(
        self, kind: str, contents: Sequence[RecordDict], clients: Sequence[int], states: Sequence[RecordDict]
    ) -> list[Reply]:
        """Return one reply per client; one that raises costs its own reply and keeps its old state."""
        return [self._call(kind, *one) for one in zip(contents, clients, states, strict=True)]

    def _call(self, kind: str, content: RecordDict, client: int, state: RecordDict) -> Reply:
        # Copies: a client that edits what it received, or its state before it fails, edits nobody else's.
        message = Message(copy_records(content), node_of(client), kind)
        context = client_context(client, self.num_clients, copy_records(state))
        try:
            reply = self.app(message, context)
        except Exception as error:
            return Reply(None, "".join(traceback.format_exception(error)))
        if reply.has_error():
            return Reply(None, reply.error.reason or "")
        return Reply(reply.content, state=context.state if context.state or state else None)
