"""Warnings before a run about what would otherwise stay silent: clients that cannot train or are not measured."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.federated.client import Client

_FEW = 0.5  # below this share of clients with test samples, a note says that the mean covers only some


def notes(
    config: RunConfig, data: FederatedData, client: type[Client], remarks: tuple[str, ...], coupled: bool
) -> dict[str, str]:
    """Return the notes to show before the first round, the method's own remarks included.

    `coupled` tells whether samples of a batch depend on each other, as with BatchNorm.

    Raises
    ------
    FedsimError
        If the run would be pointless: no client can take a step, or none can be measured although that is the aim.
    """
    said = {"note": "; ".join(remarks)} if remarks else {}
    idle, able = idle_clients(config, data, coupled), data.partition.sizes > 0
    if idle[able].any():
        what = "BatchNorm needs two samples in a batch"
        if idle[able].all():
            how = "raise training.batch_size" if config.training.batch_size == 1 else "use fewer clients"
            raise FedsimError(
                f"model.norm: {what}, and no client can make one; {how}, or {config.model.way_to('group')}"
            )
        said["idle"] = f"{what}, so {int(idle[able].sum())} of {int(able.sum())} clients take no step"
    if config.training.lr_at(config.rounds) == 0:
        still = next(t for t in range(1, config.rounds + 1) if config.training.lr_at(t) == 0)
        said["still"] = (
            f"the learning rate is 0 from round {still} on, so nothing is learned; set training.schedule.rounds="
            f"{config.rounds}, or training.schedule=constant"
        )
    return said | _about_measuring(config, data, client)


def idle_clients(config: RunConfig, data: FederatedData, coupled: bool) -> npt.NDArray[np.bool_]:
    """Return (K,) bool, the clients that take no step: BatchNorm needs batches of two samples or more."""
    samples = data.partition.sizes + data.unlabelled.sizes
    if not coupled:
        return np.zeros(len(samples), np.bool_)
    return samples <= 1 if config.training.batch_size > 1 else np.ones(len(samples), np.bool_)


def _about_measuring(config: RunConfig, data: FederatedData, client: type[Client]) -> dict[str, str]:
    if config.eval_clients == "none" or (config.eval_clients == "auto" and not client.personalised):
        return {}
    able = data.partition.sizes > 0
    measured = int(np.count_nonzero(data.client_test.sizes[able]))
    if not measured:
        raise FedsimError(
            "data.client_test: no client has a test sample, so none can be measured; use data.client_test=split, or "
            "eval_clients=none"
        )
    if measured >= _FEW * able.sum():
        return {}
    return {
        "clients": f"accuracies are means over {measured} of {int(able.sum())} clients, those with test samples; "
        "data.client_test=split gives each its own"
    }
