"""The part of an app that runs on each SuperNode."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from fedsim.deploy.samples import Arrays, Samples
from fedsim.deploy.settings import SAMPLES, read_config
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError
from fedsim.federated.registry import load_strategy
from fedsim.flower.apps import client_app
from fedsim.flower.wire import HELLO, METRICS, NUM_EXAMPLES, PARTITION_ID
from fedsim.models.build import build_model
from fedsim.version import VERSION

Load = Callable[[Mapping[str, Any]], Arrays]
"""From a node's configuration to its samples."""


def make_client_app(folder: Path, load: Load) -> ClientApp:
    """Return the ClientApp of the app in `folder`; it trains on the samples that `load` returns on this node.

    The first message loads the samples and builds the model.
    """
    config, samples = read_config(folder), Samples.read(folder / SAMPLES)

    @cache
    def app_of(client: int, node: tuple[tuple[str, Any], ...]) -> tuple[ClientApp, int]:
        data = samples.node(client, config.clients, load(dict(node)))
        if not len(data.partition[client]):
            raise FedsimError("data.py: load returns no samples")
        return client_app(Worker(config, data)), len(data.partition[client])

    def own(context: Context) -> tuple[int, ClientApp, int]:
        client = int(context.node_config.get(PARTITION_ID, -1))
        if not 0 <= client < config.clients:
            raise FedsimError(
                f"partition-id: must be given as 0 to {config.clients - 1} in --node-config, got {client}"
            )
        return client, *app_of(client, tuple(sorted(context.node_config.items())))

    app = ClientApp()

    def hello(message: Message, context: Context) -> Message:
        client, _, size = own(context)
        content = RecordDict()
        content[HELLO] = ConfigRecord({"version": VERSION})
        content[METRICS] = MetricRecord({PARTITION_ID: client, NUM_EXAMPLES: size})
        return Message(content, reply_to=message)

    def answer(message: Message, context: Context) -> Message:
        return own(context)[1](message, context)

    app.query(HELLO)(hello)
    app.train()(answer)
    app.evaluate()(answer)
    method = load_strategy(config.strategy.name)
    for query in method.client(config, build_model(config.model, samples.input_shape, samples.outputs, 0)).queries():
        app.query(query)(answer)
    return app
