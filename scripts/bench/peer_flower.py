"""The row of Flower's own engine: `run_simulation` on Ray with two actors of one CPU, its FedAvg and its loop.

Flower chooses its clients itself, so the final parameters are close to those of the other rows, but not equal.
"""

from __future__ import annotations

import os

os.environ["FLWR_TELEMETRY_ENABLED"] = "0"  # read once, at the import below

import json
import logging
import time
import warnings
from functools import cache

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import FedAvg
from torch import nn

from bench.meter import Meter
from bench.rows import Outcome, batches_of, local_sgd
from bench.workloads import Federation, Workload, flat

_WORKERS = 2

app = ClientApp()


@cache
def _actor(workload: str) -> tuple[Federation, nn.Module, torch.optim.Optimizer]:
    """Return the objects that an actor keeps between messages."""
    torch.set_num_threads(1)
    fields = json.loads(workload)
    federation = Federation(Workload(**{**fields, "shape": tuple(fields["shape"])}))
    model = federation.model()
    return federation, model, torch.optim.SGD(model.parameters(), lr=federation.workload.lr)


@app.train()
def train(message: Message, context: Context) -> Message:
    """Train one client."""
    config = message.content.config_records["config"]
    federation, model, optimizer = _actor(str(config["workload"]))
    model.load_state_dict(message.content.array_records["arrays"].to_torch_state_dict())
    server_round, client = config["server-round"], context.node_config["partition-id"]
    batches = batches_of(federation, federation.order(int(server_round), int(client)))  # type: ignore[arg-type]
    local_sgd(model, optimizer, batches)
    metrics = MetricRecord({"num-examples": federation.workload.samples, "steps": len(batches)})
    return Message(RecordDict({"arrays": ArrayRecord(model.state_dict()), "metrics": metrics}), reply_to=message)


def flower(workload: Workload, meter: Meter) -> Outcome:
    """Run `FedAvg.start` under `run_simulation`."""
    logging.getLogger("flwr").setLevel(logging.ERROR)
    warnings.simplefilter("ignore")
    from flwr.simulation import run_simulation

    server = ServerApp()
    outcomes: list[Outcome] = []
    told = json.dumps(workload.describe())

    @server.main()
    def main(grid: Grid, context: Context) -> None:
        while len(list(grid.get_node_ids())) < workload.clients:  # Flower registers nodes after this has started
            time.sleep(0.02)
        federation = Federation(workload)
        model = federation.model()
        start = flat(list(model.parameters()))
        strategy = FedAvg(
            fraction_train=workload.cohort / workload.clients, fraction_evaluate=0.0,
            min_train_nodes=workload.cohort, min_available_nodes=workload.clients,
        )  # fmt: skip
        result = strategy.start(
            grid, ArrayRecord(model.state_dict()), num_rounds=meter.total,
            train_config=ConfigRecord({"workload": told}), evaluate_fn=lambda r, _: meter.lap() if r else None,
        )  # fmt: skip
        model.load_state_dict(result.arrays.to_torch_state_dict())
        taken = [float(metrics["steps"]) for metrics in result.train_metrics_clientapp.values()]  # type: ignore[arg-type]
        outcomes.append(Outcome(start, flat(list(model.parameters())), round(sum(taken) * workload.cohort)))

    run_simulation(
        server, app, num_supernodes=workload.clients,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"num_cpus": _WORKERS, "log_to_driver": False, "logging_level": "ERROR"},
        },
    )  # fmt: skip
    return outcomes[0]
