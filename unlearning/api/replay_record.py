"""The history of a replay, which replaces the run's history for the next request."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

from flwr.app import MetricRecord, RecordDict

from fedsim.atomic import link
from fedsim.config.run import HistoryConfig
from fedsim.federated.types import State
from fedsim.flower.records import Tensors, to_record
from fedsim.flower.wire import ARRAYS, METRICS
from fedsim.runs.history import FOLDER, HistoryWriter, KeptRound, Moved, SentModel

ServerState = tuple[Tensors, dict[str, Any]]


class ReplayRecord:
    """Writes rounds 1, 2, … of a history below `folder`: those before the replay unchanged, the others as replayed.

    Parameters
    ----------
    folder
        The folder to write to.
    config
        Which parts of the history are kept.
    rounds
        The history of the source, from round 1 to the last.
    gone
        Clients that have been forgotten.
    moved
        The change of a client's parameters, from the tensors that it sends.
    """

    def __init__(
        self, folder: Path, config: HistoryConfig, rounds: Sequence[KeptRound], gone: Collection[int], moved: Moved
    ) -> None:
        self.folder, self.rounds, self.gone = folder, rounds, gone
        folder.mkdir(parents=True, exist_ok=True)
        self.writer = HistoryWriter(folder, config, moved)
        self._done = 0

    def copy_before(self, server_round: int) -> None:
        """Copy the rounds before this one; files are hard links if the disk allows it."""
        for kept in self.rounds[: server_round - 1]:
            shutil.copytree(kept.folder, self.folder / FOLDER / kept.folder.name, copy_function=link)
        self._done = server_round - 1
        self.writer.rewind(self._done)

    def begin(self, server_round: int, cohort: Sequence[int], model: State, server: ServerState) -> None:
        """Begin a round of a method that adds up updates; rounds that the method skips change nothing."""
        for number in range(self._done + 1, server_round):
            left_out = [client for client in self.rounds[number - 1].cohort if client not in self.gone]
            self.writer.begin(number, left_out, model, server)
            self.writer.commit()
        self._done = server_round
        self.writer.begin(server_round, [client for client in cohort if client not in self.gone], model, server)

    def add(self, client: int, sent: SentModel) -> None:
        """Record what a staying client contributed to the round."""
        if client not in self.gone:
            metrics = MetricRecord(dict(sent.metrics))
            self.writer.add(client, RecordDict({ARRAYS: to_record(sent.tensors), METRICS: metrics}))

    def commit(self) -> None:
        """End the round."""
        self.writer.commit()

    def complete(self, model: State, server: ServerState) -> None:
        """Write the missing rounds up to the last one, if anything was replayed."""
        if 0 < self._done < len(self.rounds):
            self.begin(len(self.rounds), self.rounds[-1].cohort, model, server)
            self.commit()

    def replayed(self) -> None:
        """Record that the round loop itself has written all rounds."""
        self._done = len(self.rounds)
