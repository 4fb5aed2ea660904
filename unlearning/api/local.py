"""Runs a method's own function on each client, with the client's samples; only its result leaves the client."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.flower.records import Tensors, from_numpy
from fedsim.privacy.ledger import Ledger, Release
from fedsim.randomness import generator, torch_draws, torch_seed
from unlearning.api.view import View


@dataclass(frozen=True, eq=False)
class Local:
    """One client, as its work function sees it."""

    client: int
    seed: int
    forget: View
    """The client's samples to forget; empty for many clients."""
    retain: View
    """The client's other samples; never empty."""

    def rng(self, purpose: str, *ids: int) -> np.random.Generator:
        """Return this client's generator for a purpose; equal arguments give equal draws, in every round."""
        return generator(self.seed, f"local-{purpose}", self.client, *ids)


Work = Callable[[Tensors, Local], Tensors]
"""(tensors from the server, client) -> tensors for the server."""


class LocalWork:
    """Runs work functions on the clients that keep samples.

    Clients work in this process, one after another. All traffic is counted, and the privacy ledger records what clients
    send as releases without noise.

    Parameters
    ----------
    config
        The run's configuration; its seed is that of all draws.
    data, left
        The run's data, and the data without the samples to forget.
    device
        Device of the samples.
    """

    def __init__(self, config: RunConfig, data: FederatedData, left: FederatedData, device: torch.device) -> None:
        self.seed, self.device = config.seed, device
        self._data, self._left = data, left
        self._ledgers: dict[str, Ledger] = {}
        self._rounds = self._woken = 0
        self._bytes = 0
        self._noted: dict[str, float] = {}
        self.clients = np.flatnonzero(left.partition.sizes).tolist()
        """The clients that keep samples; the others do not take part."""
        fewer = data.partition.sizes > left.partition.sizes
        self.holders = [client for client in self.clients if fewer[client]]
        """The clients that also have samples to forget."""

    def rng(self, purpose: str, *ids: int) -> np.random.Generator:
        """Return the server's generator for a purpose."""
        return generator(self.seed, f"local-server-{purpose}", *ids)

    def cohort(self, number: int, size: int | None) -> list[int]:
        """Return the clients of a round, ascending: all by default, else `size` clients with at least one holder."""
        if size is None or size >= len(self.clients):
            return list(self.clients)
        rng = self.rng("cohort", number)
        holder = int(rng.choice(self.holders))
        others = [client for client in self.clients if client != holder]
        return sorted([holder, *rng.choice(others, size - 1, replace=False).tolist()])

    def ask(
        self, what: str, number: int, clients: Sequence[int], work: Work, sent: Tensors, dtype: torch.dtype
    ) -> Iterator[tuple[int, Tensors]]:
        """Run the work on each client, and yield (client, result) in order.

        Parameters
        ----------
        what
            A short description of the results, for the privacy ledger.
        number
            Number of the round, from 1; with the client's number it seeds torch's draws, such as dropout.
        clients
            The clients that work.
        work
            The work function.
        sent
            Tensors for all of these clients.
        dtype
            The dtype of the samples.
        """
        ledger = self._ledgers.setdefault(what, self._new_ledger(what))
        ledger.add_round(clients)
        self._rounds += 1
        self._woken += len(clients)
        for client in clients:
            with torch_draws(torch_seed(self.seed, "local-torch", number, client), self.device):
                reply = work(sent, self._local(client, dtype))
            self._bytes += sum(value.nbytes for tensors in (sent, reply) for value in tensors.values())
            yield client, {name: value.detach() for name, value in reply.items()}

    def note(self, name: str, value: float) -> None:
        """Record a further cost, by its name in the catalogue."""
        self._noted[name] = value

    def ledgers(self) -> tuple[Ledger, ...]:
        """Return the releases of the clients, a ledger for each kind."""
        return tuple(self._ledgers.values())

    def costs(self) -> dict[str, float]:
        """Return the number of rounds and of client calls, the traffic in both directions in MB, and noted costs."""
        counted = {"rounds": self._rounds, "clients_woken": self._woken, "traffic_mb": self._bytes / 1e6}
        return counted | self._noted

    def _new_ledger(self, what: str) -> Ledger:
        note = "sent without noise: epsilon is infinite from here"
        release = Release(what=what, covers=("model",), note=note)
        return Ledger(releases=(release,), took_part=[0] * len(self._data.partition))

    def _local(self, client: int, dtype: torch.dtype) -> Local:
        kept = self._left.partition[client]
        leaving = np.setdiff1d(self._data.partition[client], kept)
        return Local(client, self.seed, self._view(leaving, dtype), self._view(np.sort(kept), dtype))

    def _view(self, rows: np.ndarray[tuple[int, ...], np.dtype[np.int64]], dtype: torch.dtype) -> View:
        dataset = self._data.dataset
        x, y = (from_numpy(values[rows]).to(self.device) for values in (dataset.x_train, dataset.y_train))
        return View(x, y, dataset.mean, dataset.std, dtype, several_labels=dataset.has_several_labels)
