"""The engine for tests and small work: chunks run in this process, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fedsim.config.run import RunConfig
from fedsim.engine.base import Chunk, ChunkRunner, Engine, answer
from fedsim.engine.registry import engine
from fedsim.engine.reply import Reply
from fedsim.engine.states import ClientStates
from fedsim.engine.worker import Worker


class InProcessEngine(Engine):
    """Runs clients in this process."""

    def __init__(self, worker: ChunkRunner, num_clients: int, chunk: int, states: ClientStates | None = None) -> None:
        super().__init__(num_clients, chunk, states)
        self.worker = worker

    def run_chunks(self, chunks: Sequence[Chunk]) -> Iterator[list[Reply]]:
        """Yield each chunk's replies in order; each chunk runs only when its replies are requested."""
        for chunk in chunks:
            yield answer(self.worker, chunk.kind, chunk.contents, chunk.clients, self.states_of(chunk))


@engine("inprocess")
def in_process(worker: Worker, config: RunConfig, chunk: int) -> InProcessEngine:
    """Return a run's in-process engine."""
    return InProcessEngine(worker, config.clients, chunk, ClientStates(config.engine.state_memory_mb << 20))
