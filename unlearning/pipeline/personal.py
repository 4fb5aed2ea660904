"""Personal models in the comparison: those of staying clients have also learned from the forgotten samples."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path

import numpy as np

from fedsim.data.federation import FederatedData
from fedsim.engine.inprocess import InProcessEngine
from fedsim.federated.registry import load_strategy
from fedsim.randomness import generator
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.personalize import models_for
from fedsim.runs.simulation import Simulation
from fedsim.training.first_model import build_run_model
from fedsim.training.precision import to_run_format
from unlearning.pipeline.measure import accuracy_on
from unlearning.pipeline.roles import Roles
from unlearning.pipeline.source import Source

_CLIENTS = 10
"""Largest number of clients whose models are measured; the same clients for all models of a comparison."""


def personal_values(
    folder: Path | None, source: Source, left: FederatedData, roles: Roles, seed: int
) -> dict[str, float]:
    """Return metrics of the personal models of the clients in `folder`, that of a run or of a replay.

    The result is empty if the strategy has no personal models, or there is no checkpoint of the last round. `left` is
    the remaining data; clients without data are not evaluated.
    """
    config = source.config.model_copy(update={"seed": seed})
    if not load_strategy(config.strategy.name).client.personalised or folder is None:
        return {}
    checkpoint = load_latest(folder)
    if checkpoint is None or checkpoint.round != config.rounds:
        return {}
    simulation = Simulation(config, data=left)
    able = np.flatnonzero(left.partition.sizes)
    wanted = np.sort(generator(source.config.seed, "personal-clients").permutation(able)[:_CLIENTS]).tolist()
    assert simulation.config.training.chunk is not None
    with contextlib.closing(
        InProcessEngine(simulation.worker, config.clients, simulation.config.training.chunk)
    ) as engine:
        state = simulation.restore(replace(checkpoint, recipe=simulation.config.recipe()), engine)
        made = models_for(wanted, simulation, state, simulation.worker, engine)
    found: dict[str, list[float]] = {"personal_own": [], "personal_forget": [], "personal_unseen": []}
    for one in made:
        if one.error:
            continue
        model = build_run_model(simulation.config, left.dataset)
        model.load_state_dict(one.model)
        to_run_format(model, config.training, source.device).eval()
        found["personal_forget"].append(accuracy_on(model, roles.forget))
        found["personal_unseen"].append(accuracy_on(model, roles.unseen))
        if "accuracy" in one.metrics:
            found["personal_own"].append(one.metrics["accuracy"])
    return {name: float(np.mean(values)) for name, values in found.items() if values}
