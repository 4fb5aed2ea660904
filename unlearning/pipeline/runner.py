"""Serves requests to forget: applies unlearning methods to a run, compares them, and writes an outcome folder."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.config.machine import MACHINE_SETTINGS
from fedsim.errors import FedsimError
from fedsim.garbage import quick_collections
from fedsim.runs.progress import Progress
from fedsim.runs.relocate import MOVED
from unlearning.api.registry import RETRAIN
from unlearning.pipeline.contest import Contest
from unlearning.pipeline.deletion import Deletion, deleted_before
from unlearning.pipeline.entries import asked_for, entries_of, own_metrics, private_entries
from unlearning.pipeline.forget import parse_in_sequence
from unlearning.pipeline.outcome import Outcome, write_outcome
from unlearning.pipeline.places import held_run, reserved, scratch
from unlearning.pipeline.privacy import ledger_of
from unlearning.pipeline.signing import load_signer
from unlearning.pipeline.source import open_source

_COMPARED_SEEDS = 3
"""Default number of seeds of a comparison; fewer seeds do not show the spread."""


def unlearn(
    run: str | Path,
    methods: Sequence[str],
    forget: str,
    *,
    then: Sequence[str] = (),
    compare: str | None = None,
    seeds: int | None = None,
    models: int | None = None,
    name: str | None = None,
    purge: bool = False,
    sign: Path | None = None,
    command: str = "unlearning.pipeline.runner.unlearn",
    no_privacy: bool = False,
    overrides: Mapping[str, Any] | None = None,
    tune: Sequence[str] = (),
    metrics: Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Make a finished run forget samples; return the outcome, whose folder is under `unlearned/` of the run.

    Parameters
    ----------
    run
        A run folder, or the folder of an earlier outcome, whose forgotten samples are not used again.
    methods
        Names of unlearning methods, or "all" for all that can serve the request. "retrain" is the oracle itself.
    forget
        The samples to forget, see `unlearning.pipeline.forget`.
    then
        Further requests, served one after another. Each method continues from its own model of the previous request.
        Each request has its own outcome; the last one is returned.
    compare
        "retrain": also train the oracle, a model retrained from scratch without the samples, and rank the methods.
    seeds
        Number of repetitions, each with an original, an oracle and methods of its own seed; by default 3 with an
        oracle, else 1.
    models
        Number of originals, of oracles and of models of each method whose margins KLOM, U-LiRA and the verdict
        compare; it includes `seeds` and implies an oracle. Models beyond the seeds have no run folders, and are kept
        for later requests.
    name
        Name of the new folder; by default method and request. Folders of `then` also get a number.
    purge
        Delete the samples permanently: destroy all files in the run's folder from which they can be computed, let the
        run take over the outcome, and write a receipt.
    sign
        PEM file of an Ed25519 private key that signs the receipt.
    command
        The command that the receipt records.
    no_privacy
        Allow methods that break the run's privacy promise; epsilon of their models is infinite.
    overrides
        Options: {"method.option": value}, or {"option": value} if there is only one method; machine settings, such as
        {"engine.device": "cpu"}; and "data.root", the new folder of data that were moved.
    tune
        Methods whose options are searched for first, see `unlearning.pipeline.tuning`.
    metrics
        The user's own metrics, as `./mine.py:name`: functions of (logits, labels), two dicts with arrays (n, C) and
        (n,) for the roles forget, retain, test and unseen; they return a number for the model.
    force
        Replace an outcome of this name.
    progress
        Shows the progress of training.
    say
        Receives a line for every step.

    Raises
    ------
    FedsimError
        If the run, its data, the request or an option is invalid; nothing was written then.
    """
    if seeds is not None and seeds < 1:
        raise FedsimError(f"--seeds: must be at least 1, got {seeds}")
    asked = asked_for(methods, compare if models is None else RETRAIN)
    own = own_metrics(metrics)
    signer = None if sign is None else load_signer(sign)
    seeds = seeds or (_COMPARED_SEEDS if asked.oracle else 1)
    if models is not None:
        _require_models(models, seeds, then)
    overrides = dict(overrides or {})
    machine = {key: overrides.pop(key) for key in (*MACHINE_SETTINGS, MOVED) if key in overrides}
    path, specs = Path(run), [forget, *then]
    with held_run(path, shared=not purge), contextlib.ExitStack() as stack:
        # With a shared lock, other processes may read the run, but not replace or continue it.
        source = open_source(path, machine)
        requests = parse_in_sequence(specs, source, deleted_before(source))
        inherited = ledger_of(source)
        plans = [entries_of(asked.methods, request, source.history, overrides) for request in requests]
        if not no_privacy:
            plans = [(private_entries(found, inherited, asked.methods, notes), notes) for found, notes in plans]
        deletion = Deletion.of(source, requests, command, signer) if purge else None
        outcomes = source.root / "unlearned"
        replays = stack.enter_context(scratch(outcomes))
        names = [name if name is None or not number else f"{name}-{number + 1}" for number in range(len(specs))]
        folders = [
            stack.enter_context(reserved(outcomes, own, f"{asked.stem}-{spec}", force))
            for own, spec in zip(names, specs, strict=True)
        ]
        before: Contest | None = None
        for number, (request, (entries, notes), folder) in enumerate(zip(requests, plans, folders, strict=True)):
            if before is not None:
                source = open_source(folders[number - 1], machine)
                say(f"then: {request.spec}")
            contest = Contest(
                source, request, entries, notes, say, progress, ledger_of(source), replays / str(number), before, own
            )
            for method in tune:
                contest.tune(method)
            for seed in range(seeds):
                gc.collect()  # garbage of before would stay in memory during the block
                with quick_collections():
                    contest.run_seed(source.config.seed + seed, oracle=asked.oracle)
            if models is not None:
                contest.add_models(range(source.config.seed + seeds, source.config.seed + models))
            outcome = contest.outcome(folder, seeds, tells_classes=not purge)
            write_outcome(outcome, source, request, {name: entry.options for name, entry in contest.entries.items()})
            before = contest
        if deletion is not None:
            deletion.carry_out(source, outcome.left, outcome.folder, outcome.comparison, say)
        return outcome


def _require_models(models: int, seeds: int, then: Sequence[str]) -> None:
    if then:
        raise FedsimError("--models: serves one request at a time; leave out --then, and continue from the outcome")
    if models < seeds:
        raise FedsimError(f"--models: must be at least the {seeds} seeds of the full comparison, got {models}")
