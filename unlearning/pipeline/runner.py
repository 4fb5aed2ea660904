"""From a run and a request to models that have forgotten, beside those that bear witness, in a folder of their own."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from fedsim.config.machine import MACHINE_SETTINGS
from fedsim.errors import FedsimError
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
"""Seeds of a comparison, unless said otherwise: fewer show no spread."""


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
    """Make a finished run forget, and return what came of it; its folder is under `unlearned/` of the run.

    Parameters
    ----------
    run
        A run folder, or that of an earlier outcome: what it has forgotten is in no data of this request.
    methods
        Names of unlearning methods, or "all": those that can serve the request. "retrain" is the oracle itself.
    forget
        What to forget, see `unlearning.pipeline.forget`.
    then
        What to forget after that, one request at a time: every method goes on from what it made itself of the request
        before. Each request has an outcome of its own; the last one is returned.
    compare
        "retrain": beside a model retrained from scratch without it, which ranks them.
    seeds
        Repetitions: each with an original, an oracle and methods of its own seed; by default 3 with an oracle, else 1.
    models
        Originals, oracles and models of each method whose margins KLOM, U-LiRA and the verdict compare, `seeds` among
        them; implies an oracle. Those beyond the seeds are trained without run folders, and kept for later requests.
    name
        Of the new folder; by default method and request. Of later requests, with their number.
    purge
        In the end, delete for good: destroy all in the run's folder from which what was forgotten can be computed,
        make the run what came of the request, and write a receipt.
    sign
        The PEM file of an Ed25519 private key that signs the receipt.
    command
        What the receipt says was called.
    no_privacy
        Let a method end what the run promises: epsilon of its model is infinite then.
    overrides
        Options: {"method.option": value}, or {"option": value} for one method; and settings of this machine, such as
        {"engine.device": "cpu"}; and "data.root", the folder that the run's data have been moved to.
    tune
        Those of the methods whose options are searched for first, see `unlearning.pipeline.tuning`.
    metrics
        Functions of one's own, `./mine.py:name`: (logits, labels), (n, C) and (n,) by role forget, retain, test and
        unseen -> a number of each model.
    force
        Replace the outcome of that name.
    progress
        Shows how training goes.
    say
        Gets a line for every step.

    Raises
    ------
    FedsimError
        If the run, its data, the request or an option is bad; nothing was written then.
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
        # While it is held, others may read the run, and nobody may replace it or go on with it.
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
        raise FedsimError("--models: serves one request at a time; leave out --then, and go on from its outcome")
    if models < seeds:
        raise FedsimError(f"--models: must be at least the {seeds} seeds of the full comparison, got {models}")
