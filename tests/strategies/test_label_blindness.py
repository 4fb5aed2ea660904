"""No method looks at a label that its client does not know."""

from dataclasses import replace

import numpy as np
import pytest

from fedsim.data.federation import federate
from fedsim.federated.registry import describe
from fedsim.runs.simulation import Simulation
from tests.strategies.small_runs import Run, assert_same_bits, configure

OPTIONS = {"data.labelled_fraction": 0.3, "cohort": 3, "rounds": 2, "training.steps": None, "eval_clients": "none"}


@pytest.mark.parametrize("method", sorted(describe("strategies")))
def test_poisoned_hidden_labels_change_no_bit(method):
    # Clients of bags have one batch of one bag, in which batch norm has no variance.
    config = configure(method, OPTIONS | ({"model.norm": "group"} if method == "aggregate" else {}))
    data = federate(config.data, config.clients, config.seed)
    hidden = data.unlabelled.indices
    assert len(hidden) > len(data.partition.indices)
    poisoned = data.dataset.y_train.copy()
    poisoned[hidden] = np.random.default_rng(0).permutation(poisoned[hidden])
    runs = []
    for given in (data, replace(data, dataset=replace(data.dataset, y_train=poisoned))):
        simulation = Simulation(config, data=given)
        runs.append(Run(simulation, simulation.engine(), simulation.begin()))
        runs[-1].advance(2)
        if simulation.strategy.prepare is None:  # else its samples are no longer these rows
            assert (simulation.worker.train_set.y[hidden] == -1).all()
    clean, blind = runs
    assert_same_bits(blind.tensors, clean.tensors)
    assert_same_bits(blind.state.server[0], clean.state.server[0])
    for client in range(config.clients):
        assert_same_bits(blind.personal(client), clean.personal(client))
