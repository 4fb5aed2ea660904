"""What clients hold out of training, for choices that must not be made on the test set."""

from __future__ import annotations

from dataclasses import replace

from fedsim.config.run import RunConfig
from fedsim.data.datasets import Dataset
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError


def require_held_out(config: RunConfig, data: FederatedData) -> None:
    """Refuse a method that makes something else of the clients' samples than what they would hold out.

    Raises
    ------
    FedsimError
        If samples are to be held out and are not.
    """
    if config.data.validation_fraction and data.validation is None:
        raise FedsimError(
            f"data.validation_fraction: {config.strategy.name} makes something else of the samples; leave it out"
        )


def held_out_set(data: FederatedData, clients: int) -> Dataset | None:
    """Return the data set whose test set is what the first so many clients hold out; None where they hold out none."""
    if data.validation is None:
        return None
    rows, dataset = data.validation.indices[: data.validation.offsets[clients]], data.dataset
    if not len(rows):
        return None
    return replace(dataset, x_test=dataset.x_train[rows], y_test=dataset.y_train[rows], truth_test=None)
