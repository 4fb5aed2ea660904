"""Who is who: the samples to forget, to keep, to test on, and never seen, as views on a device."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from fedsim.data.federation import FederatedData
from fedsim.flower.records import from_numpy
from fedsim.randomness import generator
from unlearning.api.needs import Needs
from unlearning.api.view import View
from unlearning.evaluation.noise_floor import match_classes
from unlearning.pipeline.forget import Request


@dataclass(frozen=True, eq=False)
class Roles:
    """All samples of a request, with labels."""

    forget: View
    retain: View
    test: View
    """The whole test set."""
    unseen: View
    """Of the test set, in the forgotten classes' mix as far as it goes: what attacks tell the forgotten ones from."""
    spare: View | None = None
    """The rest of the test set's samples of these classes: what a method may look at that needs never-seen ones."""

    @property
    def views(self) -> tuple[View, View, View, View]:
        """Forget, retain, test, unseen."""
        return self.forget, self.retain, self.test, self.unseen


def assign_roles(
    data: FederatedData, request: Request, seed: int, device: torch.device, dtype: torch.dtype = torch.float32
) -> Roles:
    """Return the views of a request; `seed` draws the unseen samples."""
    dataset = data.dataset

    def view(part: str, rows: npt.NDArray[np.int64]) -> View:
        x, y = (from_numpy(getattr(dataset, f"{array}_{part}")[rows]).to(device) for array in "xy")
        return View(x, y, dataset.mean, dataset.std, dtype)

    _, unseen = match_classes(dataset.y_train[request.rows], dataset.y_test, generator(seed, "unseen"))
    everything = np.arange(len(dataset.y_test))
    classes = np.unique(dataset.y_train[request.rows])
    spare = np.setdiff1d(np.flatnonzero(np.isin(dataset.y_test, classes)), unseen)
    return Roles(
        view("train", request.rows),
        view("train", request.retain),
        view("test", everything),
        view("test", np.sort(unseen) if len(unseen) else everything),
        view("test", spare),
    )


def granted(roles: Roles, needs: Needs, rng: np.random.Generator) -> tuple[View, View | None]:
    """Return the forget view and the retain view as a method with these needs gets them: nothing else is in them."""
    forget = _granted(roles.forget, needs.forget_labels, needs.synthetic_only, rng)
    if needs.unseen:
        forget = replace(forget, unseen=roles.spare)
    retain = _granted(roles.retain, needs.retain_labels, needs.synthetic_only, rng) if needs.retain else None
    return forget, retain


def _granted(view: View, labels: bool, synthetic: bool, rng: np.random.Generator) -> View:
    view = view if labels else replace(view, y=None)
    return replace(view, x=_noise(view, rng)) if synthetic else view


def _noise(view: View, rng: np.random.Generator) -> torch.Tensor:
    """Return normal noise with the data set's mean and standard deviation, in the form of the view's inputs."""
    images = view.x.dtype == torch.uint8
    columns = (len(view.mean), *([1, 1] if images else []))
    mean, std = (np.asarray(values, np.float32).reshape(columns) for values in (view.mean, view.std))
    noise = rng.standard_normal(tuple(view.x.shape), np.float32) * std + mean
    stored = (noise * 255).round().clip(0, 255).astype(np.uint8) if images else noise
    return torch.from_numpy(stored).to(view.x.device)
