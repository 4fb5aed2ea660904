"""Further inputs of some methods: the effect of the forgotten samples on logits, and the logits of an oracle.

Both come from further models of the recipe, see `unlearning.pipeline.ensemble`: subset models with seeds that nothing
else uses, shared by all requests if units are clients or samples; and oracles with seeds that never judge.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.randomness import generator
from unlearning.api.registry import Method, UnlearningConfig
from unlearning.api.view import View
from unlearning.evaluation.report import Splits
from unlearning.evaluation.scores import Array, Floats
from unlearning.parts.datamodels import Bools, difference_of_means, draw_masks, fit, ridge, without_offset
from unlearning.pipeline.ensemble import Ensemble, IntArray, Kept, Member, Part, train_members
from unlearning.pipeline.forget import Request
from unlearning.pipeline.roles import Roles, rows_of_tests
from unlearning.pipeline.source import Source

SUBSETS_APART, ORACLES_APART = 1_000_000, 2_000_000
"""Offsets to the run's seed, far from those of comparisons and tunings."""
_PER_UNIT = 10
_FEWEST_GROUPS, _MOST_GROUPS = 20, 50
_JUDGED = 2_000  # samples for the choice of penalty and scale
_TOGETHER = 5_000  # outputs that are fitted together


@dataclass(frozen=True, eq=False)
class Units:
    """Parts of the training data that each subset model includes or leaves out."""

    rows: list[IntArray]
    """Training rows of each unit."""
    forgotten: IntArray
    """Indices of the units that form the samples to forget."""
    serves_all: bool
    """Whether the units are the same for all requests."""

    def left_out(self, mask: Bools) -> IntArray:
        """Return the rows of the units that a mask (U,) leaves out, ascending."""
        out = [rows for rows, kept in zip(self.rows, mask, strict=True) if not kept]
        return np.sort(np.concatenate(out)) if out else np.empty(0, np.int64)


@dataclass(frozen=True, eq=False)
class Shifts:
    """Delta_F of the samples of each role, (n, C), with its scale and costs."""

    of: Splits[Floats]
    scale: float
    costs: dict[str, float]


class Guides:
    """Computes the further inputs for the methods of one request, once for all of its seeds."""

    def __init__(self, source: Source, request: Request, roles: Roles, say: Callable[[str], None]) -> None:
        self.source, self.request, self.roles, self.say = source, request, roles, say
        self.shifts: dict[str, Shifts] = {}
        """Effects of the forgotten samples on logits, by name of the method that declares its options."""

    def train_oracles(self, method: Method, seeds: Sequence[int]) -> None:
        """Train the oracles that models of these seeds are matched to, if the method needs them."""
        if method.needs.oracle:
            self._oracles(seeds)

    def roles_for(self, method: Method, options: UnlearningConfig, seed: int) -> Roles:
        """Return the roles; the views of forgotten and kept samples contain the method's further inputs."""
        roles = self.roles
        if method.needs.attribution:
            if method.name not in self.shifts:
                own: Any = options
                units = units_of(self.request, self.source.data, own.unit, self.source.config.seed)
                self.shifts[method.name] = shifts(self.source, self.request, units, own, self.say)
            of = self.shifts[method.name].of
            roles = replace(roles, forget=_with(roles.forget, of.forget), retain=_with(roles.retain, of.retain))
        if method.needs.oracle:
            kept = next(iter(self._oracles([seed])))
            roles = self.with_oracle(*(kept.logits("train", r) for r in (self.request.rows, self.request.retain)))
        return roles

    def with_oracle(self, forget: Floats, retain: Floats) -> Roles:
        """Return the roles with an oracle's logits for forgotten and kept samples."""
        roles = self.roles
        return replace(
            roles,
            forget=replace(roles.forget, oracle=_tensor(forget, roles.forget)),
            retain=replace(roles.retain, oracle=_tensor(retain, roles.retain)),
        )

    def costs(self, method: Method, seconds: float) -> dict[str, float]:
        """Return the costs of a method's further inputs, given the time of the method alone."""
        if method.name not in self.shifts:
            return {"models_trained": 1.0} if method.needs.oracle else {}
        costs = dict(self.shifts[method.name].costs)
        each = costs.pop("seconds_each")
        if costs.pop("serves_all") and each > seconds:
            costs["break_even"] = costs["models_trained"] * each / (each - seconds)
        return costs

    @property
    def names(self) -> set[str]:
        """Names of the predictions that `direct` returns."""
        return {f"{name} (direct)" for name in self.shifts}

    def direct(self, logits: Splits[Array]) -> dict[str, Splits[Array]]:
        """Return, by name, a model's logits minus the effect of the forgotten samples: predictions without a model."""
        found = {}
        for name, shifted in self.shifts.items():
            sides = ((np.asarray(getattr(logits, role)), shift) for role, shift in shifted.of.items())
            found[f"{name} (direct)"] = Splits[Array](*(z - shift for z, shift in sides))
        return found

    def _oracles(self, seeds: Sequence[int]) -> Ensemble:
        members = [Member(seed + ORACLES_APART, self.request.rows) for seed in seeds]
        return train_members(self.source, members, frozenset({"logits"}), self.say, "oracles to match")


def units_of(request: Request, data: FederatedData, unit: str, seed: int) -> Units:
    """Return the units of a request: clients, single samples, or groups of about its size, drawn by `seed`.

    Raises
    ------
    FedsimError
        If the samples to forget do not consist of whole units.
    """
    unit = "client" if unit == "auto" and request.kind == "clients" else unit
    if unit in ("client", "sample"):
        units = units_by(data, unit)
        gone = np.array([bool(np.isin(rows, request.rows).all()) for rows in units.rows])
        if sum(len(rows) for rows, is_gone in zip(units.rows, gone, strict=True) if is_gone) != len(request.rows):
            raise FedsimError(f"unit: {request.spec} does not consist of whole clients; use unit=group")
        return replace(units, forgotten=np.flatnonzero(gone))
    total = len(request.rows) + len(request.retain)
    groups = min(_MOST_GROUPS, max(_FEWEST_GROUPS, total // len(request.rows)))
    parts, rng = max(1, round(groups * len(request.rows) / total)), generator(seed, "groups of samples")
    ours = np.array_split(rng.permutation(request.rows), min(parts, len(request.rows)))
    others = np.array_split(rng.permutation(request.retain), max(2, min(groups - parts, len(request.retain))))
    return Units([*ours, *others], np.arange(len(ours)), serves_all=False)


def units_by(data: FederatedData, unit: str) -> Units:
    """Return every client with samples, or every sample that a client holds, as units; none of them is forgotten."""
    held, clients = np.sort(data.partition.indices), np.flatnonzero(data.partition.sizes).tolist()
    rows = [data.partition[client] for client in clients] if unit == "client" else list(held[:, None])
    return Units(rows, np.empty(0, np.int64), serves_all=True)


def subset_members(
    source: Source, units: Units, share: float, models: int, apart: int = SUBSETS_APART
) -> tuple[Bools, list[Member]]:
    """Return masks (M, U) and the members trained on them; for a larger M the first ones are the same.

    Their seeds start at the run's seed plus `apart`.
    """
    seed, numbers = source.config.seed, range(apart, apart + models)
    masks = np.stack([draw_masks(len(units.rows), share, generator(seed, "subset", m)) for m in numbers])
    return masks, [Member(seed + m, units.left_out(mask)) for m, mask in zip(numbers, masks, strict=True)]


def shifts(source: Source, request: Request, units: Units, options: Any, say: Callable[[str], None]) -> Shifts:
    """Return the effect of the forgotten samples on the logits, from subset models; `options` are the method's."""
    data, seed = source.data, source.config.seed
    models = options.models or max(_PER_UNIT * len(units.rows), 5)
    masks, members = subset_members(source, units, options.share, models)
    if masks[:, units.forgotten].all():
        raise FedsimError(f"models: none of {models} leaves out samples to forget; use more models, or a lower share")
    ensemble = train_members(
        source, members, frozenset({"logits"}), say, f"models of subsets of {len(units.rows)} units"
    )
    tests = rows_of_tests(data, request, seed)
    sizes = [len(request.rows), len(request.retain), len(tests.test), len(tests.unseen)]
    where: list[tuple[Part, IntArray]] = [
        ("train", np.concatenate([request.rows, request.retain])), ("test", np.concatenate([tests.test, tests.unseen])),
    ]  # fmt: skip
    y = np.stack([_outputs(kept, where) for kept in ensemble])
    classes = y.shape[2]
    some = np.sort(generator(seed, "judged").permutation(y.shape[1])[:_JUDGED])
    seen = y[:, some].astype(np.float64)
    judged = (without_offset(seen) if data.dataset.has_classes else seen).reshape(models, -1)
    fitted = fit(masks, judged, judged, generator(seed, "folds"))
    scale = options.scale if options.scale is not None else fitted.scale if options.estimator == "ridge" else 1.0
    flat, parts = y.reshape(models, -1), []
    for start in range(0, flat.shape[1], _TOGETHER):
        part = flat[:, start : start + _TOGETHER].astype(np.float64)
        model = ridge(masks, part, fitted.penalty) if options.estimator == "ridge" else difference_of_means(masks, part)
        parts.append(replace(model, scale=scale).shift(units.forgotten))
    found = np.split(np.concatenate(parts).reshape(-1, classes), np.cumsum(sizes)[:-1])
    say(f"datamodel: {models} models, penalty {fitted.penalty:.3g}, scale {scale:.2f}")
    costs = {
        "models_trained": float(models), "seconds_each": float(np.mean([kept.seconds for kept in ensemble])),
        "serves_all": float(units.serves_all),
    }  # fmt: skip
    return Shifts(Splits(*found), scale, costs)


def _outputs(kept: Kept, where: Sequence[tuple[Part, IntArray]]) -> npt.NDArray[np.float32]:
    """Return the logits (n, C) of all requested samples."""
    return np.concatenate([kept.logits(part, rows).astype(np.float32) for part, rows in where])


def _with(view: View, shift: Floats) -> View:
    return replace(view, shift=_tensor(shift, view))


def _tensor(values: Floats, view: View) -> torch.Tensor:
    return torch.from_numpy(values).to(view.x.device, view.dtype)
