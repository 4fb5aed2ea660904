"""The files of an app, and the check that a configuration can be deployed."""

from __future__ import annotations

from pathlib import Path

from fedsim.config.resolve import read_yaml, resolve
from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.federated.registry import load_strategy
from fedsim.federated.server import Server

CONFIG, SAMPLES = "config.yaml", "samples.json"

ONE_BY_ONE = {"training.vectorize": "never", "training.chunk": 1, "engine.name": "inprocess"}
"""A node is one client. A simulation with these settings gives the same bits."""


def read_config(folder: Path) -> RunConfig:
    """Return the configuration of an app, if it can be deployed; see `require_deployable`."""
    config = resolve(read_yaml(folder / CONFIG), ONE_BY_ONE)
    require_deployable(config)
    return config


def require_deployable(config: RunConfig) -> None:
    """Refuse options that only a simulation supports.

    Raises
    ------
    FedsimError
        With the option, and the alternative.
    """
    method = load_strategy(config.strategy.name)
    reads = getattr(method.server, "reads_training_data", Server.reads_training_data)
    private = config.privacy.client or config.privacy.example
    example = config.privacy.example
    stages = config.data.stages is not None and config.data.stages.count > 1
    refused = {
        "strategy.name: its server prepares the clients' data, which it does not have here": method.prepare is not None,
        "strategy.name: its server reads the clients' data, which it does not have here": reads(config),
        "strategy.name, model.name, data.name: your own files are not sent to nodes": bool(config.plugins),
        "start: nodes do not have these weights; leave it out": config.start is not None,
        "faults: faults are simulated only; leave them out": any(config.faults.model_dump().values()),
        "clients_unseen: every node takes part; leave it out": bool(config.clients_unseen),
        "data.stages: nodes decide when samples arrive; leave it out": stages,
        "data.canaries, data.label_noise, data.feature_shift: need all samples in one place; leave them out": (
            config.data.changes_samples
        ),
        "data.labelled_fraction: nodes know all their labels; leave it out": config.data.labelled_fraction < 1,
        "privacy.noise: must be secure; anyone with the configuration can compute seeded noise and remove it": (
            private is not None and config.privacy.noise != "secure"
        ),
        "privacy.example.target_epsilon: nodes do not know the others' sizes; give noise_multiplier": (
            example is not None and example.noise_multiplier is None
        ),
    }
    for told, is_so in refused.items():
        if is_so:
            raise FedsimError(f"{told} (in a federation of nodes)")
