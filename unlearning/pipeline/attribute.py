"""`fedsim attribute`: attributes predictions on test samples to training samples or to clients."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsim.atomic import write_atomically
from fedsim.errors import FedsimError, nearest
from fedsim.flower.records import from_numpy
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from fedsim.runs.reserve import new_content
from fedsim.sealed import seal
from unlearning.api.view import View
from unlearning.evaluation.lds import Lds, lds
from unlearning.evaluation.scores import Floats
from unlearning.parts.datamodels import fit
from unlearning.parts.trak import early_stopping_ridge, trak
from unlearning.pipeline.attribution import Attribution, Unit
from unlearning.pipeline.ensemble import IntArray, Member, Part, train_members
from unlearning.pipeline.guides import SUBSETS_APART, Units, subset_members, units_by
from unlearning.pipeline.places import held_run, reserved
from unlearning.pipeline.privacy import ledger_of, promised_to
from unlearning.pipeline.source import Source, open_source

METHODS = ("trak", "datamodels")
FOLDER = "attributions"
HELD_OUT_APART = 500_000
"""Offset of the seeds of those subset models that judge attributions."""
_CHECKPOINTS, _PER_UNIT, _FEWEST = 5, 10, 20


def attribute(
    run: str | Path,
    of: str,
    method: str,
    unit: Unit,
    *,
    models: int | None = None,
    judges: int = 0,
    share: float = 0.9,
    dimension: int = 512,
    name: str | None = None,
    force: bool = False,
    no_privacy: bool = False,
    machine: Mapping[str, Any] | None = None,
    say: Callable[[str], None] = lambda line: None,
) -> tuple[Path, Attribution]:
    """Attribute predictions; return the folder under `attributions/` of the run, and the attribution in it.

    Parameters
    ----------
    run
        A finished run, or the outcome of a request to forget; deleted samples have no attribution.
    of
        The test samples whose margins are attributed: `test=0,5-9` or `class=3`.
    method
        One of `METHODS`.
    unit
        The units to which margins are attributed.
    models
        Checkpoints of TRAK, by default 5; or subset models, by default ten per client.
    judges
        Number of further subset models that judge the attributions (LDS); none by default.
    share
        The probability with which a subset model keeps a unit.
    dimension
        Dimension of TRAK's projections.
    name
        Name of the new folder.
    force
        Replace a folder of that name.
    no_privacy
        Show samples and clients although the run promises privacy.
    machine
        Settings of this machine.
    say
        Gets a line for every step.

    Raises
    ------
    FedsimError
        If the run or an argument is bad; nothing was written then.
    """
    path = Path(run)
    _require(method, unit, models, judges, share)
    with held_run(path, shared=True):
        source = open_source(path, machine)
        if source.data.dataset.has_several_labels:
            raise FedsimError(f"{path}: predicts several labels, and margins need classes; attribute a run on classes")
        if not no_privacy and (promised := promised_to(ledger_of(source))):
            raise FedsimError(
                f"{path}: promises privacy of {promised}, and attribution breaks it; --no-privacy allows that"
            )
        targets = _targets(of, source)
        units = units_by(source.data, unit)
        described = f"{method}-{unit}-{of}"
        with reserved(source.folder.path / FOLDER, name, described, force) as folder:
            if method == "trak":
                models = models or _CHECKPOINTS
                scores = _trak(source, units, targets, models, dimension, say)
            else:
                models = models or max(_FEWEST, _PER_UNIT * len(units.rows))
                scores = _datamodels(source, units, targets, models, share, say)
            judged = _judged(source, units, targets, scores, share, judges, say) if judges else None
            held = np.flatnonzero(source.data.partition.sizes) if unit == "client" else np.concatenate(units.rows)
            made = Attribution(scores, targets, held, unit, method, models, of, judged)
            _write(folder, source, made)
        return folder, made


def _require(method: str, unit: str, models: int | None, judges: int, share: float) -> None:
    if method not in METHODS:
        raise FedsimError(f"--method {method}: no such attribution; {nearest(method, METHODS)}")
    if unit not in ("sample", "client"):
        raise FedsimError(f"--unit {unit}: must be sample or client")
    if method == "datamodels" and unit == "sample" and models is None:
        raise FedsimError("--models: datamodels of single samples need thousands of models; give a number, or use trak")
    fewest = 1 if method == "trak" else 5
    if models is not None and models < fewest:
        raise FedsimError(f"--models: must be at least {fewest}, got {models}")
    if not 0 < share < 1:
        raise FedsimError(f"--share: must be between 0 and 1, got {share:g}")
    if judges and judges < 3:
        raise FedsimError(f"--lds: must be 0, or at least 3 models, got {judges}")


def _targets(of: str, source: Source) -> IntArray:
    """Return the test rows that `of` names."""
    key, _, value = of.partition("=")
    labels = source.data.dataset.y_test
    if key == "class" and re.fullmatch(r"\d{1,9}", value):
        rows = np.flatnonzero(labels == int(value))
        if not len(rows):
            raise FedsimError(f"--of {of}: no test sample has that class; classes are 0 to {labels.max()}")
        return rows
    if key == "test" and re.fullmatch(r"\d{1,9}(-\d{1,9})?(,\d{1,9}(-\d{1,9})?)*", value):
        found: list[int] = []
        for part in value.split(","):
            first, _, last = part.partition("-")
            if int(last or first) >= len(labels):
                raise FedsimError(f"--of {of}: no test sample {last or first}; they are 0 to {len(labels) - 1}")
            found += range(int(first), int(last or first) + 1)
        if found:
            return np.unique(np.array(found, np.int64))
    raise FedsimError(f"--of {of}: must be test=ROWS, such as test=0,5-9, or class=NUMBER")


def _trak(
    source: Source, units: Units, targets: IntArray, models: int, dimension: int, say: Callable[[str], None]
) -> Floats:
    seed = source.config.seed
    members = [Member(seed + number) for number in range(1, models)]
    kept = train_members(source, members, frozenset({"model"}), say, "checkpoints")
    checkpoints: list[Classifier] = [source.model, *(each.model(source) for each in kept)]
    say(f"gradients of {sum(map(len, units.rows)):,} samples at {models} checkpoints")
    train, tests = (_samples(source, *some) for some in (("train", np.concatenate(units.rows)), ("test", targets)))
    told = trak(
        checkpoints, train, tests, dimension, seed, early_stopping_ridge(len(train[1]), time_of(source))
    ).numpy()
    starts = np.cumsum([0, *(len(rows) for rows in units.rows[:-1])])
    return np.asarray(np.add.reduceat(told, starts, axis=1), np.float64)


def time_of(source: Source) -> float:
    """Return the training time of a run, the sum of learning rate times steps; infinite for Adam.

    A round moves the global model by the mean of its clients' moves.
    """
    config, sizes = source.config.training, source.data.partition.sizes
    if config.optimizer != "sgd":
        return math.inf
    batches = np.ceil(sizes / config.batch_size) if config.steps is None else np.full(len(sizes), config.steps)
    steps = float(np.average(batches * (config.epochs if config.steps is None else 1), weights=sizes))
    return sum(map(config.lr_at, range(1, source.config.rounds + 1))) * steps / (1 - config.momentum)


def _samples(source: Source, part: Part, rows: IntArray) -> tuple[torch.Tensor, torch.Tensor]:
    dataset = source.data.dataset
    x, y = (from_numpy(getattr(dataset, f"{array}_{part}")[rows]).to(source.device) for array in "xy")
    return View(x, y, dataset.mean, dataset.std, source.model.classifier.weight.dtype).all()[0], y


def _datamodels(
    source: Source, units: Units, targets: IntArray, models: int, share: float, say: Callable[[str], None]
) -> Floats:
    masks, margins = _subset_margins(source, units, targets, models, share, SUBSETS_APART, say, "models of subsets")
    found = fit(masks, margins, margins, generator(source.config.seed, "folds"))
    return np.asarray(found.scale * found.effects.T, np.float64)


def _judged(
    source: Source, units: Units, targets: IntArray, scores: Floats, share: float, judges: int,
    say: Callable[[str], None],
) -> Lds:  # fmt: skip
    apart = SUBSETS_APART + HELD_OUT_APART
    masks, margins = _subset_margins(source, units, targets, judges, share, apart, say, "models that judge")
    return lds(scores, masks, margins, generator(source.config.seed, "LDS"))


def _subset_margins(
    source: Source, units: Units, targets: IntArray, models: int, share: float, apart: int,
    say: Callable[[str], None], what: str,
) -> tuple[npt.NDArray[np.bool_], Floats]:  # fmt: skip
    """Return masks (M, U) and the margins (M, T) of models trained on them."""
    masks, members = subset_members(source, units, share, models, apart)
    kept = train_members(source, members, frozenset({"logits"}), say, what)
    return masks, np.stack([each.margins("test", targets) for each in kept])


def _write(folder: Path, source: Source, made: Attribution) -> None:
    """Write the folder, replacing an older one of the same name."""
    from unlearning.pipeline.attribution_page import write_page  # import matplotlib only when needed

    try:
        with new_content(folder) as temporary:
            np.savez_compressed(
                temporary / "scores.npz", allow_pickle=False, scores=made.scores, targets=made.targets, units=made.units
            )
            told = {
                "of": made.of, "method": made.method, "unit": made.unit, "models": made.models,
                "lds": None if made.lds is None else asdict(made.lds),
                "data_sha256": source.everyone.content_hash, "run": str(source.folder.path),
            }  # fmt: skip
            write_atomically(temporary / "attribution.json", seal(json.dumps(told, indent=1)))
            write_page(temporary / "report.html", source, made)
    except OSError as error:
        raise FedsimError(f"{folder}: cannot be written ({error.strerror})") from None
