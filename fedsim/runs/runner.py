"""Creates run folders from configurations, and continues runs that were stopped or killed."""

from __future__ import annotations

import contextlib
import json
import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from fedsim.atomic import write_atomically
from fedsim.config.machine import CHOSEN_ANEW, require_machine_settings
from fedsim.config.resolve import allow_named, find_config, recorded_config, resolve, user_settings
from fedsim.config.run import RunConfig
from fedsim.data.datasets import load_dataset
from fedsim.data.federation import FederatedData
from fedsim.engine.base import Engine
from fedsim.errors import ClusterLost, FedsimError, RunFailed, TooFewReplies
from fedsim.garbage import quick_collections
from fedsim.interrupts import heeding_signals
from fedsim.models.base import Classifier
from fedsim.models.portable import describe_in
from fedsim.privacy import ledger
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import load_latest, load_model, save_model
from fedsim.runs.client_scores import FILE as CLIENTS
from fedsim.runs.client_scores import write_csv
from fedsim.runs.folder import RunFolder
from fedsim.runs.frozen import Inherited, inherited_data, run_data
from fedsim.runs.history import require_room
from fedsim.runs.new_folder import make_folder, reserved
from fedsim.runs.observers import RoundObserver
from fedsim.runs.pictures import write_pictures
from fedsim.runs.progress import Progress
from fedsim.runs.relocate import MOVED, relocated
from fedsim.runs.reserve import held
from fedsim.runs.result import RunResult
from fedsim.runs.rounds import disk_cause, run_rounds
from fedsim.runs.settle import as_given
from fedsim.runs.simulation import Simulation, described
from fedsim.runs.state import RunState
from fedsim.runs.stopping import discard_best
from fedsim.runs.summary import newest, write_summary
from fedsim.runs.watch import divergence
from fedsim.sealed import seal, sha256
from fedsim.trackers.base import tracker_classes
from fedsim.training.first_model import build_run_model

_WARNINGS = 3
_ELSEWHERE = "choose another --out"


def run(
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    """Run a federation and return its metrics and model.

    Parameters
    ----------
    config
        A configuration, the same as a mapping, the name of a preset or the path of a YAML file.
    overrides
        Dotted keys over it, such as `{"training.lr": 0.1}`.
    force
        Replace an existing run of the same name.
    observers
        Are told of every round.

    Raises
    ------
    FedsimError
        If the configuration or the data is bad; nothing was written then.
    """
    if isinstance(config, RunConfig):
        base: Mapping[str, Any] = as_given(config)
    else:
        base = config if isinstance(config, Mapping) else find_config(str(config)) if config is not None else {}
    if not isinstance(config, str | Path):
        allow_named(base)
    allow_named(overrides or {})
    like = Path(config) if isinstance(config, str | Path) and (Path(config) / "config.yaml").is_file() else None
    return run_layers([base, overrides or {}], force=force, progress=progress, like=like, observers=observers)


def run_layers(
    layers: Sequence[Mapping[str, Any]],
    *,
    force: bool,
    progress: Progress | None,
    like: Path | None = None,
    pictures: bool = True,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    """Run the configuration that the layers make, see `fedsim.config.resolve`, in a new run folder.

    `like` is the run folder that the first layer comes from; the new run excludes what was deleted from that run.
    Without `pictures` the folder has neither plots nor a report.
    """
    config = resolve(user_settings(), *layers)
    with reserved(config, force) as folder:
        inherited = inherited_data(config, like)
        simulation = Simulation(config, progress, None if inherited is None else inherited.data)
        return _begin(folder, simulation, pictures=pictures, inherited=inherited, observers=observers)


def resume(
    folder: str | Path,
    progress: Progress | None = None,
    rounds: int | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    pictures: bool = True,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    """Continue a stopped or killed run from its last checkpoint; the result is bit for bit that of an undisturbed run.

    Parameters
    ----------
    folder
        The run folder; a finished run is continued if `rounds` is larger than its number of rounds.
    progress
        Shows how it goes.
    rounds
        The total number of rounds, in place of the configured one; written to the configuration.
    overrides
        Settings of this machine, such as `{"engine.device": "cpu"}`, which a run folder does not store; options of
        the engine that change no bit, such as `{"engine.name": "inprocess"}`; and "data.root", the folder to which
        its data have been moved.
    pictures
        Whether plots and report are drawn at the end.
    observers
        Are told of every round.

    Raises
    ------
    FedsimError
        If `folder` is no run, its checkpoint is damaged, its data has changed, or it already has more rounds.
    """
    machine = dict(overrides or {})
    root = machine.pop(MOVED, None)
    require_machine_settings(machine, "overrides of a run that goes on", taken=CHOSEN_ANEW)
    run = RunFolder.open(folder, anew=True)
    with held(run.path):
        recorded = recorded_config(run.path)
        config = resolve(user_settings(), recorded, relocated(recorded, root), machine)
        if rounds is not None:
            config = with_rounds(run, config, rounds)
        simulation = Simulation(config, progress, run_data(run.path, config))
        if rounds is not None:
            require_room(config.history, simulation.server.initial(), rounds, config.cohort_size)
        return _continue(run.path, simulation, pictures=pictures, longer=rounds is not None, observers=observers)


def with_rounds(run: RunFolder, config: RunConfig, rounds: int) -> RunConfig:
    """Return the configuration of a run with a larger number of rounds.

    Raises
    ------
    FedsimError
        If the run already has that many rounds, or its privacy was planned for another number.
    """
    if rounds <= run.rounds_done:
        raise FedsimError(f"--rounds: {run.path} has done {run.rounds_done}; give more, got {rounds}")
    if rounds > config.rounds and (config.privacy.client is not None or config.privacy.example is not None):
        raise FedsimError(
            f"--rounds: {run.path} planned its privacy for {config.rounds} rounds, and more would spend more; start a "
            "new run"
        )
    return config.model_copy(update={"rounds": rounds})


def continue_model(
    folder: Path, simulation: Simulation, start: Callable[[Engine], RunState], beside: Callable[[Path], None]
) -> RunResult:
    """Continue to train a model in a new run folder, which the caller holds; `start` returns its state.

    The folder can be resumed like any other, and is bound to the data of the simulation. `beside` adds to it what
    else belongs to the model.
    """
    config = simulation.config
    require_room(config.history, simulation.server.initial(), config.rounds, config.cohort_size)
    with contextlib.closing(simulation.engine()) as engine:
        state = start(engine)
        make_folder(folder, simulation, frozen=True)
        beside(folder)
        simulation.checkpoint(state, engine).save(folder)
        return _finish(folder, simulation, engine, state)


def begin_or_resume(folder: Path, simulation: Simulation, *, pictures: bool = True) -> RunResult:
    """Run to the end in `folder`, from the last checkpoint if the run exists.

    Without `pictures` the folder has neither plots nor a report.
    """
    with held(folder):
        return (_continue if folder.exists() else _begin)(folder, simulation, pictures=pictures)


def require_same_data(run: RunFolder, data: FederatedData) -> None:
    """Refuse data that differs, in any bit or in its distribution over clients, from that at the start of the run."""
    if run.environment.get("data_sha256") != data.content_hash:
        what = f"{data.dataset.name} or its partition is not what this run was trained on (its hash differs)"
        raise FedsimError(f"{run.path}: {what}; restore the data, or run it anew")


def load_run_model(folder: str | Path) -> Classifier:
    """Return the final global model of a finished run, in evaluation mode."""
    run = RunFolder.open(folder)
    config = resolve(run.config)
    dataset = load_dataset(config.data, config.seed)
    model = build_run_model(config, dataset)
    model.load_state_dict(load_run_tensors(run))
    return model.eval()


def load_run_tensors(run: RunFolder) -> dict[str, torch.Tensor]:
    """Return the state dict of a finished run's global model.

    Raises
    ------
    FedsimError
        If its hash is not the recorded one.
    """
    path = run.path / "model.safetensors"
    tensors = load_model(path)
    if run.summary is None or sha256(path) != run.summary.model_sha256:
        raise FedsimError(f"{path}: is not the model that the run recorded (its hash differs); run it anew")
    return tensors


def _begin(
    folder: Path,
    simulation: Simulation,
    *,
    pictures: bool = True,
    inherited: Inherited | None = None,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    config = simulation.config
    tracker_classes(config.log)
    require_room(config.history, simulation.server.initial(), config.rounds, config.cohort_size)
    with contextlib.closing(simulation.engine()) as engine:  # first, because the data may not be available
        make_folder(folder, simulation, frozen=inherited is not None)
        if inherited is not None:
            inherited.tell(folder)
        return _finish(folder, simulation, engine, simulation.begin(), pictures=pictures, observers=observers)


def _continue(
    folder: Path,
    simulation: Simulation,
    *,
    pictures: bool = True,
    longer: bool = False,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    tracker_classes(simulation.config.log)
    run = RunFolder.open(folder, anew=True)
    require_same_data(run, simulation.data)
    if run.config_changed:
        simulation.choices["config"] = "config.yaml was changed since the run began, which may change its outcome"
    with contextlib.closing(simulation.engine()) as engine:
        checkpoint = load_latest(folder)
        try:
            state = simulation.begin() if checkpoint is None else simulation.restore(checkpoint, engine)
        except FedsimError as error:
            raise FedsimError(f"{folder}: {error}") from None
        if longer:
            _keep_config(run, simulation.config)
        _require_ledger(folder, state)
        return _finish(folder, simulation, engine, state, pictures=pictures, observers=observers)


def _require_ledger(folder: Path, state: RunState) -> None:
    """Load the run's releases from its ledger, which may contain more than the checkpoint does."""
    if not ledger.exists(folder):
        return
    told = Ledger.read(folder)
    if told.rounds > state.ledger.rounds:
        if told.recipe != state.ledger.recipe:
            raise FedsimError(
                f"{folder}: {told.rounds} rounds of another recipe have been released (see privacy.json); "
                "undo the change to config.yaml, or start a new run"
            )
        state.ledger = told
    elif told.recipe == state.ledger.recipe:  # a checkpoint has no record of the run that the model comes from
        state.ledger = state.ledger.model_copy(update={"before": told.before})


def _keep_config(run: RunFolder, config: RunConfig) -> None:
    """Replace the configuration file of a run."""
    write_atomically(run.path / "config.yaml", config.to_yaml().encode())
    files = dict(run.environment.get("files", {})) | {"config.yaml": sha256(run.path / "config.yaml")}
    made_on = {**run.environment, "files": files}
    write_atomically(run.path / "environment.json", seal(json.dumps(made_on, indent=1)))


@quick_collections()
def _finish(
    folder: Path,
    simulation: Simulation,
    engine: Engine,
    state: RunState,
    *,
    pictures: bool = True,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    """Run the remaining rounds of a run, and complete its folder."""
    go_on = f"fedsim run --resume {shlex.quote(str(folder))}"
    engine.leave_word(f"to go on: {go_on}")
    try:
        with heeding_signals():
            began_as = simulation.config
            state = run_rounds(folder, simulation, engine, state, observers)
            if simulation.config != began_as:  # it has stopped early
                _keep_config(RunFolder.open(folder), simulation.config)
                discard_best(folder)
        exported = simulation.server.export(state.tensors)
        describe_in(folder, described(simulation.config, simulation.data.dataset))
        save_model(folder / "model.safetensors", exported)
        write_pictures(folder, simulation.server.pictures())
        astray = divergence(newest(state.metrics), simulation.data.dataset)
        write_summary(folder, simulation, state, "diverged" if astray else "finished", astray)
        clients = state.clients
        if clients is None:  # evaluated in a process that was killed after its checkpoint
            _, clients = simulation.evaluate_clients(state.round, state.tensors, engine)
        if clients:
            write_csv(folder / CLIENTS, clients, simulation.data.partition.sizes.tolist())
        if pictures:
            _write_pictures(folder)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; to go on: {go_on}") from None
    except ClusterLost as error:
        raise ClusterLost(f"{error}; to go on: {go_on}") from None
    except TooFewReplies as error:
        raise TooFewReplies(f"{error}; {folder} keeps the {state.round} rounds before") from None
    except (OSError, FedsimError, SafetensorError) as error:
        if (cause := disk_cause(error)) is None:
            raise
        raise RunFailed(f"{folder}: cannot be written ({cause}); free some room, then: {go_on}") from None
    model = build_run_model(simulation.config, simulation.data.dataset)
    model.load_state_dict({name: value.cpu() for name, value in exported.items()})
    return RunResult(folder, simulation.config, state.metrics, newest(state.metrics), model.eval())


def _write_pictures(folder: Path) -> None:
    from fedsim.report.html import write_report  # import matplotlib only after the rounds
    from fedsim.report.plots import write_plots

    opened = RunFolder.open(folder)
    write_plots(opened)
    write_report([opened], folder / "report.html")
