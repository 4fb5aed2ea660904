"""The result of an attack: its value, its direction, and its noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from unlearning.evaluation.scores import Array, Floats, Ints, as_values, has_several_labels

_MIN_HALF = 10


@dataclass(frozen=True)
class NoiseFloor:
    """The attack on data, or models, that are equal by construction: random halves of what was never seen."""

    mean: float
    sd: float
    """Over the halvings, at `size` per half; it shrinks like 1/sqrt(size)."""
    size: int
    """Samples (U-LiRA: models) in each half."""


@dataclass(frozen=True)
class Attack:
    """One membership attack on one model, forget set against never-seen data."""

    value: float
    """The value of the attack, in [0, 1]."""
    chance: float
    """Mean value for equal distributions at these sizes."""
    standard_error: float
    """Standard deviation of `value` for equal distributions; differences within two of it are no result."""
    sign: int
    """+1: the forget set fits worse than never-seen data (over-forgotten); -1: better (remembered); 0: equal."""
    size: int
    """Samples per side that were compared; for unequal sides the smaller number."""
    reading: str
    """The sign convention in words."""
    floor: NoiseFloor | None = None
    """None if there is too little never-seen data to halve it."""


def loss_sign(forget: Array, unseen: Array) -> int:
    """Return sign(mean forget loss - mean unseen loss)."""
    return int(np.sign(np.mean(as_values(forget, "forget losses")) - np.mean(as_values(unseen, "unseen losses"))))


def never_seen_halves(
    attack: Callable[[Floats, Floats], float], unseen: Array, rng: np.random.Generator, halvings: int = 20
) -> NoiseFloor | None:
    """Return the results of `attack` (on a forget and an unseen sample) on random halves of never-seen values (n,).

    It is None for fewer than 20 values or 2 halvings. If samples are correlated, as images of one person are, the true
    floor is wider than this one.
    """
    return of_halves(attack, as_values(unseen, "unseen values"), rng, halvings, _MIN_HALF)


def of_halves(
    attack: Callable[[Floats, Floats], float], values: Floats, rng: np.random.Generator, halvings: int, least: int
) -> NoiseFloor | None:
    """Return the results of `attack` on random halves of the rows of `values`.

    None for fewer than `least` rows per half.
    """
    half = len(values) // 2
    if half < least or halvings < 2:
        return None
    drawn = []
    for _ in range(halvings):
        order = rng.permutation(len(values))
        drawn.append(attack(values[order[:half]], values[order[half : 2 * half]]))
    return NoiseFloor(float(np.mean(drawn)), float(np.std(drawn, ddof=1)), half)


def match_classes(forget_labels: Array, unseen_labels: Array, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Return rows (k,) of the forget set and (k,) of the unseen data with the same classes, row by row.

    For each class, both sides get as many rows as the smaller side has, drawn at random. Without this, an attack on a
    forgotten class or on a client with few classes measures the difference of the classes (SCRUB restricts its attack
    in the same way). Samples with several labels have no classes: all count as one class.
    """
    ours, theirs = (_strata(labels) for labels in (forget_labels, unseen_labels))
    forget_rows, unseen_rows = [], []
    for label in np.unique(ours):
        a, b = np.flatnonzero(ours == label), np.flatnonzero(theirs == label)
        keep = min(len(a), len(b))
        forget_rows.append(rng.permutation(a)[:keep])
        unseen_rows.append(rng.permutation(b)[:keep])
    return np.concatenate(forget_rows), np.concatenate(unseen_rows)


def _strata(labels: Array) -> Ints:
    return np.zeros(len(np.asarray(labels)), np.int64) if has_several_labels(labels) else np.asarray(labels, np.int64)
