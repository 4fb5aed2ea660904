"""Undoes one request of a sequence: subtracts its change of the weights, and keeps the changes of the other requests.

Each weight becomes W = W_T - (W_t - W_{t-1}), where W_{t-1}, W_t and W_T are the models after requests t - 1, t and T.
If each request adds a change to the weights, as GS-LoRA merges its low-rank factors, the result is the original plus
the changes of the other requests. Later changes were trained on top of the undone one, so the result is only
approximate. It is therefore measured like a method's model, under one request for all samples that stay forgotten.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.config.machine import MACHINE_SETTINGS
from fedsim.errors import FedsimError, nearest
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.runs.folder import RunFolder
from fedsim.runs.progress import Progress
from fedsim.runs.relocate import MOVED
from fedsim.runs.runner import load_run_tensors
from unlearning.api.needs import Needs
from unlearning.api.registry import KINDS, Method, UnlearningConfig
from unlearning.api.view import View
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.contest import Contest
from unlearning.pipeline.entries import Entry
from unlearning.pipeline.forget import Request, parse_forget
from unlearning.pipeline.outcome import Outcome, write_outcome
from unlearning.pipeline.places import held_run, reserved, scratch
from unlearning.pipeline.privacy import ledger_of
from unlearning.pipeline.source import Earlier, Source, open_source

NAME = "undo"


class UndoConfig(UnlearningConfig):
    """The undone request."""

    chain: str
    """Name of the outcome that served the sequence of requests."""
    request: str
    """The request, as it was given."""


def undo(
    outcome: str | Path,
    request: str,
    *,
    name: str | None = None,
    compare: bool = False,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> Outcome:
    """Undo one request of a sequence, and return the outcome; its folder is under `unlearned/` of the run.

    Parameters
    ----------
    outcome
        The folder of the last outcome of a sequence of two or more requests.
    request
        The request to undo, as it was given, such as "class=3".
    name
        Name of the new folder; by default "undo" and the request.
    compare
        Also train the oracle, a model that has never seen the samples that stay forgotten.
    overrides
        Machine settings.
    force
        Replace an outcome of this name.
    progress, say
        See `unlearn`.

    Raises
    ------
    FedsimError
        If there is no such request, no other request would stay, or a model is missing; nothing was written then.
    """
    path = Path(outcome)
    machine = {key: value for key, value in (overrides or {}).items() if key in (*MACHINE_SETTINGS, MOVED)}
    with held_run(path, shared=True), contextlib.ExitStack() as stack:
        end = open_source(path, machine)
        back, stays = _parted(end, request)
        root = open_source(end.root, machine)
        undone = without_change(end.model, _model_before(end, back), load_run_tensors(RunFolder.open(back.folder)))
        asked = _joined(root, back, stays)
        place = stack.enter_context(scratch(root.root / "unlearned"))
        folder = stack.enter_context(reserved(root.root / "unlearned", name, f"{NAME}-{request}", force))
        options = UndoConfig(name=NAME, chain=path.resolve().name, request=request)
        entry = Entry(_method(undone), options, "method")
        contest = Contest(root, asked, {NAME: entry}, [], say, progress, ledger_of(end), place / "0", None, {})
        contest.run_seed(root.config.seed, oracle=compare)
        found = contest.outcome(folder, 1)
        write_outcome(found, root, asked, {NAME: options})
        return found


def without_change(model: Classifier, before: Tensors, after: Tensors) -> Classifier:
    """Subtract `after - before` from a model's floating-point tensors, in place; return the model."""
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value -= (after[name].double() - before[name].double()).to(value)
    return model


def _parted(end: Source, request: str) -> tuple[Earlier, list[Earlier]]:
    """Return the request to undo, and the requests that stay."""
    specs = [earlier.spec for earlier in end.earlier]
    if len(specs) < 2:
        raise FedsimError(
            f"{end.folder.path}: is not the outcome of a sequence of requests, so nothing would stay forgotten; "
            "use the run itself"
        )
    if request not in specs:
        raise FedsimError(f"--request {request}: is not a request of this sequence; {nearest(request, specs)}")
    number = specs.index(request)
    if any(not len(earlier.rows) for earlier in end.earlier):
        raise FedsimError(f"--request {request}: was purged, so it cannot be undone; train a new run with its samples")
    return end.earlier[number], [*end.earlier[:number], *end.earlier[number + 1 :]]


def _model_before(end: Source, back: Earlier) -> Tensors:
    number = [earlier.folder for earlier in end.earlier].index(back.folder)
    folder = end.earlier[number - 1].folder if number else end.root
    return load_run_tensors(RunFolder.open(folder))


def _joined(root: Source, back: Earlier, stays: list[Earlier]) -> Request:
    """Return one request to the run for all samples that stay forgotten.

    Samples of the undone request also stay forgotten if another request names them, for example a client's samples of a
    forgotten class.
    """
    kinds = {read_comparison(earlier.folder).kind for earlier in stays}
    rows = [earlier.rows for earlier in stays]
    named = [earlier.spec for earlier in stays if "random" not in earlier.spec]  # a draw depends on earlier requests
    again = [parse_forget(spec, root.data, root.config.seed, everyone=root.everyone) for spec in named]
    rows += [np.intersect1d(request.rows, back.rows) for request in again]
    forget = np.unique(np.concatenate(rows))
    unseen = np.unique(np.concatenate([np.empty(0, np.int64), *(request.unseen for request in again)]))
    retain = np.setdiff1d(np.sort(root.data.partition.indices), forget, assume_unique=True)
    spec = " + ".join(earlier.spec for earlier in stays)
    return Request(spec, kinds.pop() if len(kinds) == 1 else "samples", forget, retain, unseen=unseen)


def _method(undone: Classifier) -> Method:
    """Return a method that uses no sample, and returns the given model."""

    def unlearn(
        model: Classifier, forget: View, retain: View | None, config: UndoConfig, rng: np.random.Generator
    ) -> Classifier:
        return undone

    return Method(NAME, UndoConfig, Needs(retain=False, synthetic_only=True), frozenset(KINDS), unlearn)
