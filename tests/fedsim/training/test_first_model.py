"""Server and clients begin with the same weights, to the last bit of a double."""

from pathlib import Path

import torch
from safetensors.torch import save_file

from fedsim.config.resolve import resolve
from fedsim.runs.simulation import Simulation
from tests.tiny_runs import TINY


def test_doubles_from_a_file_reach_server_and_clients_unrounded(tmp_path: Path) -> None:
    drawn = Simulation(resolve(TINY, {"training.precision": "float64"})).server.first.params
    third = {name: value / 3 for name, value in drawn.items()}
    save_file(third, tmp_path / "start.safetensors")
    options = {"training.precision": "float64", "start": str(tmp_path / "start.safetensors")}
    begun = Simulation(resolve(TINY, options))
    for name, value in third.items():
        assert torch.equal(begun.server.first.params[name], value)
        assert torch.equal(begun.worker.client.initial[name], value)
