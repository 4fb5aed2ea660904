"""Work of a method's own on each client, where its samples are: what the work returns is all that leaves a client."""

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
    """One client, as the work on it sees it."""

    client: int
    seed: int
    forget: View
    """Its samples that are to be forgotten; of many clients none."""
    retain: View
    """Its other samples; never none."""

    def rng(self, purpose: str, *ids: int) -> np.random.Generator:
        """Return a generator of this client's own; equal addresses give equal draws, in whatever round."""
        return generator(self.seed, f"local-{purpose}", self.client, *ids)


Work = Callable[[Tensors, Local], Tensors]
"""(what was sent, one client) -> what it sends back."""


class LocalWork:
    """The clients that keep samples, to do what a method asks of them.

    They work in this process, one after another. All that they were sent and send is counted, and what they send is
    written down as shown without noise.

    Parameters
    ----------
    config
        The run's configuration; its seed gives the draws.
    data, left
        The run's data, and what is left without what is to be forgotten.
    """

    def __init__(self, config: RunConfig, data: FederatedData, left: FederatedData, device: torch.device) -> None:
        self.seed, self.device = config.seed, device
        self._data, self._left = data, left
        self._ledgers: dict[str, Ledger] = {}
        self._rounds = self._woken = 0
        self._bytes = 0
        self._noted: dict[str, float] = {}
        self.clients = np.flatnonzero(left.partition.sizes).tolist()
        """Those that keep samples. One that keeps none sits out: it could do nothing but forget."""
        fewer = data.partition.sizes > left.partition.sizes
        self.holders = [client for client in self.clients if fewer[client]]
        """Those of them that hold something to forget."""

    def rng(self, purpose: str, *ids: int) -> np.random.Generator:
        """Return a generator of the server's."""
        return generator(self.seed, f"local-server-{purpose}", *ids)

    def cohort(self, number: int, size: int | None) -> list[int]:
        """Return the clients of a round, ascending: all by default, else so many, one holder at least."""
        if size is None or size >= len(self.clients):
            return list(self.clients)
        rng = self.rng("cohort", number)
        holder = int(rng.choice(self.holders))
        others = [client for client in self.clients if client != holder]
        return sorted([holder, *rng.choice(others, size - 1, replace=False).tolist()])

    def ask(
        self, what: str, number: int, clients: Sequence[int], work: Work, sent: Tensors, dtype: torch.dtype
    ) -> Iterator[tuple[int, Tensors]]:
        """Yield what each client makes of what it is sent, in order.

        Parameters
        ----------
        what
            What leaves the clients, in a few words, for the privacy ledger.
        number
            Of the round, from 1; with the client it is the address of torch's own draws, such as dropout's.
        dtype
            Of the samples that the work sees.
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
        """Note what else it took, by a name of the catalogue."""
        self._noted[name] = value

    def ledgers(self) -> tuple[Ledger, ...]:
        """Return what the clients have shown."""
        return tuple(self._ledgers.values())

    def costs(self) -> dict[str, float]:
        """Return rounds, how often a client worked, megabytes sent both ways, and what was noted."""
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
