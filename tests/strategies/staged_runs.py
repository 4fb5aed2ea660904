"""Runs in their second stage, and parts of their losses."""

import torch

from fedsim.federated.types import Batch, Extras
from strategies.target import SAMPLES
from tests.strategies.small_runs import begin

STAGED = {
    "rounds": 4,
    "data.stages.count": 2,
    "data.partition": "iid",
    "model": {"name": "cnn", "norm": "batch", "width": 4},
}


def in_second_stage(method, **strategy):
    """Return (client half, its extras, a batch) of a run in its second stage."""
    run = begin(method, {**STAGED, **{f"strategy.{name}": value for name, value in strategy.items()}})
    run.advance(3)
    simulation = run.simulation
    worker, server = simulation.worker, simulation.server
    rows = simulation.data.at(3)[0][:8]
    x, y = worker.train_set.batch(torch.from_numpy(rows), None)
    state = server.split(run.tensors)
    return worker.client, state, Extras(state.params, server.constants()), Batch(x, y), run


def gradients(client, state, extras, batch):
    params = {name: value.clone().requires_grad_() for name, value in state.params.items()}
    buffers = {name: value.clone() for name, value in state.buffers.items()}
    loss, _ = client.loss(params, buffers, extras, batch)
    return dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True)), buffers


def shared_batch(extras, run, count=8):
    samples = extras.constants[SAMPLES][:count]
    return run.simulation.worker.train_set.__class__.batch(
        run.simulation.worker.train_set.__class__(
            samples, torch.zeros(len(samples)), run.simulation.worker.train_set.mean,
            run.simulation.worker.train_set.std, "none", 0,
        ),
        torch.arange(count), None,
    )[0]  # fmt: skip
