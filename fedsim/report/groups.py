"""Groups of runs that differ only in their seed: means, spreads, and which groups are significantly best."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import numpy as np
from scipy import stats

from fedsim.config.run import NAMED_SECTIONS
from fedsim.errors import FedsimError, nearest
from fedsim.report.wording import direction, format_option
from fedsim.runs.folder import RunFolder
from fedsim.runs.rows import MetricRow

LEVEL: Final = 0.05
"""A group counts as worse than the best one if a paired t-test over seeds says so at this level."""

_OF_THE_RUN: Final = ("seed", "name", "start_sha256", "training.vectorize", "training.chunk")
_OF_THE_MACHINE: Final = ("engine.", "plugins", "eval_", "checkpoint_every", "history.", "data.root")

Measure = Callable[[RunFolder], float]
"""A function from a run to a number; NaN if the run has no such value."""


@dataclass(frozen=True)
class RunGroup:
    """Runs of one configuration with different seeds."""

    label: str
    runs: tuple[RunFolder, ...]
    """The runs, in the order of their seeds."""

    def values(self, measure: Measure) -> dict[int, float]:
        """Return the finite values of a measure, by seed."""
        found = {seed_of(run): measure(run) for run in self.runs}
        return {seed: value for seed, value in found.items() if math.isfinite(value)}


@dataclass(frozen=True)
class Spread:
    """The statistics of a group in one measure."""

    mean: float
    """Mean over the runs with a value; NaN if there are none."""
    sd: float
    """Standard deviation over seeds, with n - 1; NaN for fewer than two."""
    n: int
    """Number of runs with a value."""
    of: int
    """Number of runs of the group."""

    @property
    def half_width(self) -> float:
        """Half the width of the 95 % confidence interval of the mean, by Student's t; NaN for fewer than two runs."""
        return self.sd / math.sqrt(self.n) * float(stats.t.ppf(0.975, self.n - 1)) if self.n > 1 else math.nan


def open_runs(paths: Sequence[Path]) -> list[RunFolder]:
    """Return the runs in these folders: run folders, or folders that hold run folders, such as a sweep's.

    Raises
    ------
    FedsimError
        If a path is neither.
    """
    found: list[RunFolder] = []
    for path in paths:
        inside = sorted(file.parent for file in path.glob("*/config.yaml")) if path.is_dir() else []
        many = inside and not (path / "config.yaml").is_file()
        found += [RunFolder.open(folder) for folder in (inside if many else [path])]
    unique = {folder.path.resolve(): folder for folder in found}
    return list(unique.values())


def seed_of(run: RunFolder) -> int:
    """Return the seed in a run's configuration."""
    seed = run.option("seed")
    return seed if isinstance(seed, int) else 0


def grouped(runs: Sequence[RunFolder], by: Sequence[str] = ()) -> list[RunGroup]:
    """Return groups of runs that agree in the options `by`, or in all that affect results; order is kept.

    Raises
    ------
    FedsimError
        If no run has an option, or two runs in a group have the same seed.
    """
    keys = [_option(key, runs) for key in by] or _telling(runs)
    blocks: dict[tuple[str, ...], list[RunFolder]] = {}
    for run in runs:
        blocks.setdefault(_address(run, keys), []).append(run)
    groups = []
    for address, members in blocks.items():
        members.sort(key=seed_of)
        for one, other in itertools.pairwise(members):
            if seed_of(one) == seed_of(other):
                raise FedsimError(_same_seed(one, other, bool(by)))
        label = ", ".join(_told(key, value) for key, value in zip(keys, address, strict=True))
        groups.append(RunGroup(label or str(members[0].option("strategy.name") or members[0].name), tuple(members)))
    return groups


def seeds_grouped(runs: Sequence[RunFolder]) -> list[RunGroup] | None:
    """Return the groups of runs if at least one has several seeds; None if runs should be shown one by one."""
    try:
        groups = grouped(runs)
    except FedsimError:  # the same run may be there twice
        return None
    return groups if len(groups) < len(runs) else None


def spread(values: Mapping[int, float], of: int) -> Spread:
    """Return mean and standard deviation of values by seed, for a group of `of` runs."""
    numbers = np.array(list(values.values()), np.float64)
    mean = float(numbers.mean()) if len(numbers) else math.nan
    return Spread(mean, float(numbers.std(ddof=1)) if len(numbers) > 1 else math.nan, len(numbers), of)


def not_worse(groups: Sequence[Mapping[int, float]], way: Literal["higher", "lower"] | None) -> list[bool]:
    """Return which groups are best by their mean, or not significantly worse than that one.

    Groups are compared with the best one by a one-sided paired t-test on their common seeds, at `LEVEL`. Without two
    common seeds there is no test, and only the best group is marked. No group is marked if there is no ranking.

    Parameters
    ----------
    groups
        Values by seed.
    way
        Which way is better.
    """
    means = [np.mean(list(values.values())) if values else math.nan for values in groups]
    known = [mean for mean in means if math.isfinite(mean)]
    if way is None or len(known) < 2 or min(known) == max(known):
        return [False] * len(groups)
    sign = 1.0 if way == "higher" else -1.0
    best = max(range(len(groups)), key=lambda place: sign * means[place] if math.isfinite(means[place]) else -math.inf)
    return [
        place == best or (bool(values) and not _is_worse(values, groups[best], sign))
        for place, values in enumerate(groups)
    ]


def _is_worse(values: Mapping[int, float], best: Mapping[int, float], sign: float) -> bool:
    common = sorted(values.keys() & best.keys())
    if len(common) < 2:
        return True
    lead = sign * np.array([best[seed] - values[seed] for seed in common])
    if np.ptp(lead) == 0:  # no spread, so no test
        return bool(lead[0] > 0)
    return bool(stats.ttest_1samp(lead, 0.0, alternative="greater").pvalue < LEVEL)


def final(name: str) -> Measure:
    """Return the measure "final value of a metric"."""
    return lambda run: run.final_metrics.get(name, math.nan)


def rounds_to(name: str, target: float) -> Measure:
    """Return the measure "first round in which a metric reaches `target`"."""
    return lambda run: float(rows[-1].round) if (rows := _until(run, name, target)) else math.nan


def seconds_to(name: str, target: float) -> Measure:
    """Return the measure "seconds of rounds until a metric reaches `target`"."""

    def measure(run: RunFolder) -> float:
        rows = _until(run, name, target)
        return math.nan if not rows or rows[-1].time_s is None else rows[-1].time_s

    return measure


def megabytes_to(name: str, target: float) -> Measure:
    """Return the measure "10^6 bytes of tensors sent to and from all clients until a metric reaches `target`"."""

    def measure(run: RunFolder) -> float:
        rows = _until(run, name, target)
        sent = [count for row in rows for count in (row.bytes_down, row.bytes_up)]
        known = [count for count in sent if count is not None]
        return sum(known) / 1e6 if rows and len(known) == len(sent) else math.nan

    return measure


def _until(run: RunFolder, name: str, target: float) -> Sequence[MetricRow]:
    """Return the rounds up to the first in which a metric reaches `target`; empty if it never does."""
    sign = -1.0 if direction(name) == "lower" else 1.0
    for place, row in enumerate(run.metrics):
        value = row.metrics.get(name)
        if value is not None and sign * value >= sign * target:
            return run.metrics[: place + 1]
    return ()


# Which options tell groups apart -------------------------------------------------------------------------------------


def _telling(runs: Sequence[RunFolder]) -> list[str]:
    """Return the smallest set of options that distinguishes all runs with different options, names first."""
    every = dict.fromkeys(key for run in runs for key in run.flat_config)
    keys = [key for key in every if key not in _OF_THE_RUN and not key.startswith(_OF_THE_MACHINE)]
    kept: list[str] = []
    parts = 1
    for key in sorted(keys, key=lambda key: (not key.endswith("name"), key.count("."))):
        if (now := len({_address(run, [*kept, key]) for run in runs})) > parts:
            kept, parts = [*kept, key], now
    return kept


def _address(run: RunFolder, keys: Sequence[str]) -> tuple[str, ...]:
    return tuple(format_option(run.flat_config[key]) if key in run.flat_config else "" for key in keys)


def _told(key: str, value: str) -> str:
    section, _, last = key.rpartition(".")
    return value if last == "name" or not value else f"{last if section else key}={value}"


def _option(key: str, runs: Sequence[RunFolder]) -> str:
    """Return the dotted key of an option; for example, `strategy` is short for `strategy.name`."""
    known = dict.fromkeys(key for run in runs for key in run.flat_config)
    full = f"{key}.name" if key in NAMED_SECTIONS or f"{key}.name" in known else key
    if full not in known:
        raise FedsimError(f"--by {key}: no run has such an option; {nearest(key, known)}")
    return full


def _same_seed(one: RunFolder, other: RunFolder, told: bool) -> str:
    ours, theirs = one.flat_config, other.flat_config
    keys = [key for key in dict.fromkeys([*ours, *theirs]) if ours.get(key) != theirs.get(key)]
    differ = [key for key in keys if key not in _OF_THE_RUN and not key.startswith(_OF_THE_MACHINE)]
    remedy = f"they differ in {differ[0]}, so add --by {differ[0]}" if told and differ else "give one of them"
    return f"{one.path} and {other.path}: have the same seed and would be counted as two of one group; {remedy}"


def common_names(groups: Sequence[RunGroup]) -> list[str]:
    """Return the final metrics that any run of the groups has."""
    return sorted({name for group in groups for run in group.runs for name in run.final_metrics})


def describe_level(groups: Sequence[RunGroup]) -> str:
    """Return a line on the meaning of the marks in a table."""
    seeds = {len(group.runs) for group in groups}
    counted = f"{min(seeds)}" if len(seeds) == 1 else f"{min(seeds)} to {max(seeds)}"
    return (
        f"mean ± standard deviation over {counted} seed{'s' if seeds != {1} else ''}; bold: the best mean, and what a "
        f"one-sided paired t-test over seeds does not call worse (level {LEVEL:g})"
    )
