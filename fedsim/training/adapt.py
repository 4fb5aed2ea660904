"""Personalises a client's model: local steps on its personal tensors, or on all tensors if it has none."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from fedsim.federated.client import Client
from fedsim.federated.types import Phase, State
from fedsim.flower.records import Tensors
from fedsim.training.data import ClientJob
from fedsim.training.trainer import Trainer


@dataclass(frozen=True)
class _Steps:
    """The phases of a client's round that train some of its tensors, with a given number of steps each."""

    client: Client
    names: frozenset[str]
    steps: int

    def phases(self) -> Sequence[Phase]:
        """Return these phases."""
        return [self._of(phase) for phase in self.client.phases() if any(map(phase.trains, self.names))]

    def _of(self, phase: Phase) -> Phase:
        return replace(phase, trains=lambda n: n in self.names and phase.trains(n), steps=self.steps, epochs=None)


def adapted(trainer: Trainer, client: Client, start: State, constants: Tensors, job: ClientJob, steps: int) -> State:
    """Return the model of a client, including its personal tensors, after `steps` local steps.

    Parameters
    ----------
    trainer
        The trainer of the run; its data and options are used.
    client
        The client half of the method.
    start
        The global tensors that the client received.
    constants
        Further tensors that all clients received.
    job
        The client's samples, its personal tensors, and tensors that only it received.
    steps
        Number of steps of each phase.
    """
    model = start if job.start is None else start.merged(job.start)
    own = job.personal.params if client.personalised and job.personal.params else model.params
    tuned = Trainer(
        _Steps(client, frozenset(own), steps), trainer.data, trainer.config, trainer.seed, trainer.batch_coupling
    )
    trained = tuned.train(start, constants, [job], 0).state
    return State(*({name: value[0] for name, value in part.items()} for part in trained))
