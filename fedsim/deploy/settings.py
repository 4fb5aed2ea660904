"""The files of an app, and which configurations can be one."""

from __future__ import annotations

from pathlib import Path

from fedsim.config.resolve import read_yaml, resolve
from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.federated.registry import load_strategy
from fedsim.federated.server import Server

CONFIG, SAMPLES = "config.yaml", "samples.json"

ONE_BY_ONE = {"training.vectorize": "never", "training.chunk": 1, "engine.name": "inprocess"}
"""A node is one client: a simulation with these settings comes to the same bits."""


def read_config(folder: Path) -> RunConfig:
    """Return the configuration of an app, refused where a federation of nodes cannot be one."""
    config = resolve(read_yaml(folder / CONFIG), ONE_BY_ONE)
    require_deployable(config)
    return config


def require_deployable(config: RunConfig) -> None:
    """Refuse what only a simulation has.

    Raises
    ------
    FedsimError
        With the option, and what to set instead.
    """
    method = load_strategy(config.strategy.name)
    reads = getattr(method.server, "reads_training_data", Server.reads_training_data)
    private = config.privacy.client or config.privacy.example
    example = config.privacy.example
    stages = config.data.stages is not None and config.data.stages.count > 1
    refused = {
        "strategy.name: its clients' data are prepared by the server, which has none here": method.prepare is not None,
        "strategy.name: its server looks at the clients' data, which are not here": reads(config),
        "strategy.name, model.name, data.name: files of one's own do not travel to nodes": bool(config.plugins),
        "start: nodes do not have those weights; leave it out": config.start is not None,
        "faults: real nodes have their own; leave them out": any(config.faults.model_dump().values()),
        "clients_unseen: every node takes part; leave it out": bool(config.clients_unseen),
        "data.stages: when whose samples arrive is the nodes' to say; leave it out": stages,
        "data.canaries, data.label_noise, data.feature_shift: are drawn by who has all samples; leave them out": (
            config.data.changes_samples
        ),
        "data.labelled_fraction: nodes know all of their labels; leave it out": config.data.labelled_fraction < 1,
        "privacy.noise: must be secure; who has the configuration can compute seeded noise, and take it off": (
            private is not None and config.privacy.noise != "secure"
        ),
        "privacy.example.target_epsilon: nodes do not know the others' sizes; give noise_multiplier": (
            example is not None and example.noise_multiplier is None
        ),
    }
    for told, is_so in refused.items():
        if is_so:
            raise FedsimError(f"{told} (in a federation of nodes)")
