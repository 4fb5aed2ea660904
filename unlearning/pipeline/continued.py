"""Continues training from an unlearned model: a new run, without the forgotten samples."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedsim.atomic import link
from fedsim.config.run import HistoryConfig
from fedsim.engine.base import Engine
from fedsim.errors import FedsimError
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import load_latest, load_model
from fedsim.runs.folder import RunFolder
from fedsim.runs.history import FOLDER as HISTORY
from fedsim.runs.progress import Progress
from fedsim.runs.reserve import held
from fedsim.runs.result import RunResult
from fedsim.runs.runner import continue_model, with_rounds
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState
from unlearning.api.federation import global_tensors
from unlearning.pipeline.deletion import deleted_before
from unlearning.pipeline.deletions import Deletions, write_deletions
from unlearning.pipeline.privacy import carried_on
from unlearning.pipeline.source import open_source


def continue_outcome(
    outcome: Path, rounds: int | None, progress: Progress | None = None, machine: Mapping[str, Any] | None = None
) -> RunResult:
    """Continue to train the model of an outcome up to round `rounds`, in a new folder beside the outcome's run.

    It continues from the last state of a replay, bit for bit as if the forgotten samples had never existed. If the
    method left only a model, it continues from that model, and server and clients start with new states.

    Raises
    ------
    FedsimError
        If `rounds` is not larger than the rounds done, or the model does not determine what clients must be sent.
    """
    if rounds is None:
        raise FedsimError(f"{outcome}: is an unlearned model; give its last round with --rounds")
    with held(outcome.resolve().parents[1], shared=True):
        source = open_source(outcome, machine)
        config = with_rounds(RunFolder.open(source.root), source.config, rounds)
        name = f"{source.root.resolve().name}-{outcome.resolve().name}"
        folder = source.root.resolve().parent / name
        if source.history.keep == "none":
            config = config.model_copy(update={"history": HistoryConfig()})
        config = config.model_copy(update={"name": name, "out": folder.parent})
        with held(folder):
            if folder.exists():
                raise FedsimError(f"{folder}: exists already; fedsim run --resume {folder} continues it")
            simulation = Simulation(config, progress, source.everyone)

            def start(engine: Engine) -> RunState:
                state = begun(engine)
                if ledgers.exists(outcome):
                    state.ledger = carried_on(Ledger.read(outcome), state.ledger)
                return state

            def begun(engine: Engine) -> RunState:
                checkpoint = load_latest(outcome)
                if checkpoint is not None and checkpoint.round == source.config.rounds:
                    same = dataclasses.replace(checkpoint, recipe=simulation.config.recipe())
                    return simulation.restore(same, engine)
                tensors = global_tensors(simulation.server, load_model(outcome / "model.safetensors"))
                if tensors is None:
                    raise FedsimError(f"{outcome}: its model does not determine what the server sends to clients")
                return dataclasses.replace(simulation.begin(), tensors=tensors, round=source.config.rounds)

            def beside(made: Path) -> None:
                write_deletions(made, Deletions(specs=deleted_before(source)))
                if config.history.keep != "none":
                    shutil.copytree(outcome / HISTORY, made / HISTORY, copy_function=link)

            return continue_model(folder, simulation, start, beside)
