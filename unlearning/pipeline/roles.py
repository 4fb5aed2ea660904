"""The roles of samples in a request: forget, retain, test, unseen and selection, as views on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from fedsim.data.canaries import with_trigger
from fedsim.data.federation import FederatedData
from fedsim.flower.records import from_numpy
from fedsim.models.base import Classifier
from fedsim.randomness import generator
from unlearning.api.needs import Needs
from unlearning.api.view import View
from unlearning.evaluation.noise_floor import match_classes
from unlearning.pipeline.forget import Request
from unlearning.pipeline.source import Source, first_model


@dataclass(frozen=True, eq=False)
class Roles:
    """All samples of a request, with labels."""

    forget: View
    """Training samples to forget."""
    retain: View
    """All other training samples."""
    test: View
    """Test samples for reported metrics: three quarters of each class."""
    unseen: View
    """Never-seen samples that attacks compare with the forgotten ones: the data set's own unseen part if it has one,
    else samples of `test` with the class frequencies of the forgotten samples, as far as possible."""
    selection: View
    """The other test samples; models, epochs and options are chosen on them, and no reported metric uses them."""
    spare: View | None = None
    """Samples of `selection` of a forgotten class, for methods that need never-seen samples."""
    triggered: View | None = None
    """Samples of `test` with the backdoor's trigger and its target label, if the backdoor is to be forgotten."""
    earlier: View | None = None
    """Samples of earlier requests, to measure whether they are remembered again; None if there are none, or they were
    deleted."""
    first: Classifier | None = None
    """The run's own model, before any request, if classes are to be forgotten."""

    @property
    def views(self) -> tuple[View, View, View, View]:
        """The views forget, retain, test and unseen."""
        return self.forget, self.retain, self.test, self.unseen


class RowsOfTests(NamedTuple):
    """Test rows of each role, (n,) ascending; see `Roles`."""

    test: npt.NDArray[np.int64]
    unseen: npt.NDArray[np.int64]
    selection: npt.NDArray[np.int64]
    never: Literal["test", "unseen"] = "test"
    """The part of the data set that the rows in `unseen` index."""


def rows_of_tests(data: FederatedData, request: Request, seed: int) -> RowsOfTests:
    """Assign test samples to roles at random, with `seed`."""
    dataset = data.dataset
    selection = _held_out(dataset.strata_test, generator(seed, "selection"))
    test = np.setdiff1d(np.arange(len(dataset.y_test)), selection)
    if dataset.y_unseen is not None:
        return RowsOfTests(test, np.arange(len(dataset.y_unseen)), selection, "unseen")
    _, matched = match_classes(dataset.strata_train[request.rows], dataset.strata_test[test], generator(seed, "unseen"))
    return RowsOfTests(test, np.sort(test[matched]) if len(matched) else test, selection)


def assign_roles(
    data: FederatedData, request: Request, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Roles:
    """Return the views of a request; `seed` draws the unseen samples."""
    dataset = data.dataset

    def view(part: str, rows: npt.NDArray[np.int64]) -> View:
        x, y = (from_numpy(getattr(dataset, f"{array}_{part}")[rows]).to(device) for array in "xy")
        return View(x, y, dataset.mean, dataset.std, dtype, several_labels=dataset.has_several_labels)

    rows = rows_of_tests(data, request, seed)
    test, selection = rows.test, rows.selection
    classes = np.unique(dataset.strata_train[request.rows])
    triggered = None
    if data.canaries is not None and len(np.intersect1d(data.canaries.rows["backdoor"], request.rows)):
        others = view("test", test[dataset.y_test[test] != data.canaries.target])
        marked = from_numpy(with_trigger(others.x.cpu().numpy())).to(device)
        triggered = replace(others, x=marked, y=torch.full_like(_labels(others), data.canaries.target))
    return Roles(
        view("train", request.rows),
        view("train", request.retain),
        view("test", test),
        view(rows.never, rows.unseen),
        view("test", selection),
        view("test", selection[np.isin(dataset.strata_test[selection], classes)]),
        triggered,
    )


def _held_out(labels: npt.NDArray[np.int64], rng: np.random.Generator, share: float = 0.25) -> npt.NDArray[np.int64]:
    """Return random rows (k,) of a share of each class, ascending; at least one row, and no class's only sample."""
    rows = [
        rng.permutation(np.flatnonzero(labels == label))[: round(share * np.count_nonzero(labels == label))]
        for label in np.unique(labels)
    ]
    found = np.sort(np.concatenate(rows))
    return found if len(found) else rng.permutation(len(labels))[:1]


def _labels(view: View) -> torch.Tensor:
    """Return the labels of a view, which must have labels."""
    assert view.y is not None
    return view.y


def roles_of(source: Source, request: Request) -> Roles:
    """Return the views of a request to a source, including the samples of its earlier requests."""
    seed, dtype = source.config.seed, source.model.classifier.weight.dtype
    roles = assign_roles(source.data, request, seed, source.device, dtype)
    if request.kind == "class":
        roles = replace(roles, first=first_model(source))
    if source.whole is None:
        return roles
    rows = np.unique(np.concatenate([earlier.rows for earlier in source.earlier]))
    x, y = (from_numpy(getattr(source.whole, f"{array}_train")[rows]).to(source.device) for array in "xy")
    return replace(roles, earlier=replace(roles.forget, x=x, y=y))


def views_for(roles: Roles, needs: Needs, rng: np.random.Generator) -> tuple[View, View | None]:
    """Return the forget view and the retain view for a method; they contain only what the method declares to need."""
    forget = _granted(roles.forget, needs.forget_labels, needs.synthetic_only, rng)
    if needs.unseen:
        forget = replace(forget, unseen=roles.spare)
    retain = _granted(roles.retain, needs.retain_labels, needs.synthetic_only, rng) if needs.retain else None
    return forget, retain


def _granted(view: View, labels: bool, synthetic: bool, rng: np.random.Generator) -> View:
    view = view if labels else replace(view, y=None)
    return replace(view, x=_noise(view, rng)) if synthetic else view


def _noise(view: View, rng: np.random.Generator) -> torch.Tensor:
    """Return Gaussian noise with the data set's mean and standard deviation, with shape and dtype of the inputs."""
    images = view.x.dtype == torch.uint8
    columns = (len(view.mean), *([1, 1] if images else []))
    mean, std = (np.asarray(values, np.float32).reshape(columns) for values in (view.mean, view.std))
    noise = rng.standard_normal(tuple(view.x.shape), np.float32) * std + mean
    stored = (noise * 255).round().clip(0, 255).astype(np.uint8) if images else noise
    return torch.from_numpy(stored).to(view.x.device)
