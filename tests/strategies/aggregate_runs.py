"""Small federations of the method `aggregate`."""

from dataclasses import replace
from itertools import pairwise

from fedsim.data.federation import federate
from fedsim.data.partition import Partition

LINEAR = {
    "strategy": {"name": "aggregate", "bag_size": 4, "rho": 0.1, "epsilon": 1.0},
    "data": {"name": "linear", "linear": {"d": 20, "n": 500, "n_test": 50}, "partition": "iid"},
    "clients": 5, "rounds": 3, "eval_every": 1000, "model": "linear",
    "training": {"epochs": 1, "batch_size": 1000, "lr": 0.3, "vectorize": "always", "precision": "float64"},
}  # fmt: skip
CANCER = {
    "strategy": {"name": "aggregate", "bag_size": 3}, "data": {"name": "breast_cancer"},
    "clients": 4, "rounds": 2, "model": {"name": "mlp", "hidden": [8]}, "training": {"vectorize": "never"},
}  # fmt: skip
CUTS = [0, 30, 100, 200, 330, 500]
"""Clients of unlike size, none a multiple of the bag."""


def unlike(config):
    """The data of `config`, its clients of unlike size."""
    data = federate(config.data, config.clients, config.seed)
    order = data.partition.indices
    lists = [order[a + 1 : b] for a, b in pairwise(CUTS)]
    return replace(data, partition=Partition.from_lists(lists))


def advanced(simulation, rounds):
    engine, state = simulation.engine(), simulation.begin()
    for _ in range(rounds):
        simulation.step(state, engine)
    return state
