"""Forgetting classes in several requests: the samples of a request, and the measurements of a model.

Used by `gs_lora_fashion.py` and `gs_lora_gpu.py`. The columns are in percent:

- H = 2 Acc_r Drop / (Acc_r + Drop), where Drop is the drop from the first model's accuracy on the forgotten classes;
- the accuracy on kept (r), forgotten (f) and earlier forgotten (o) classes;
- `probe`: the accuracy of the nearest class mean of the features, on test images of the forgotten classes;
- `relearn`: the accuracy on the forgotten classes after 20 steps on 10 training images of each;
- `relearn o`: the same for the earlier forgotten classes;
- `still`: the number of blocks whose change is below 1e-3;
- `change`: the sum of the changes of all blocks.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from evidence import logits, rows_of

from fedsim.models.base import Classifier
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.evaluation.class_means import probe
from unlearning.evaluation.harmonic_mean import h_mean
from unlearning.gs_lora import perceptrons
from unlearning.pipeline.roles import Roles


@dataclass(frozen=True, eq=False)
class Request:
    """Classes to forget from a model, and the available samples."""

    first: Classifier
    """The model before any request."""
    train: View
    test: View
    classes: list[int]
    earlier: list[int]

    def of(self, view: View, classes: list[int]) -> View:
        """Return the samples of these classes."""
        assert view.y is not None
        return rows_of(view, torch.isin(view.y, torch.tensor(classes, device=view.y.device)))

    @property
    def kept(self) -> list[int]:
        """Classes that are not forgotten, neither now nor earlier."""
        return [c for c in range(self.first.classifier.out_features) if c not in (*self.classes, *self.earlier)]

    @property
    def roles(self) -> Roles:
        """The views of the request."""
        return Roles(self.of(self.train, self.classes), self.of(self.train, self.kept), self.test, self.test, self.test)


def accuracy(model: Classifier, view: View) -> float:
    """Return the accuracy in percent; NaN if there are no samples."""
    assert view.y is not None
    return float(100 * (logits(model, view).argmax(1) == view.y.cpu().numpy()).mean()) if len(view) else float("nan")


@torch.no_grad()
def features(model: Classifier, view: View) -> tuple[np.ndarray, np.ndarray]:
    """Return features (N, d) and labels (N,)."""
    assert view.y is not None
    model.eval()
    return np.concatenate(
        [model.features(x).double().cpu().numpy() for x, _ in view.batches(500, None)]
    ), view.y.cpu().numpy()


def relearned(model: Classifier, request: Request, classes: list[int], seed: int) -> float:
    """Return the accuracy on these classes after 20 steps of SGD on 10 training images of each."""
    model, rng = copy.deepcopy(model), generator(seed, "relearn")
    some = [request.of(request.train, [label]) for label in classes]
    few = [rows_of(view, torch.from_numpy(rng.permutation(len(view))[:10]).to(view.x.device)) for view in some]
    x, y = torch.cat([view.all()[0] for view in few]), torch.cat([view.y for view in few if view.y is not None])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    for _ in range(20):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return accuracy(model, request.of(request.test, classes))


def changes(model: Classifier, before: Classifier) -> list[float]:
    """Return the norm of each block's change."""
    found = []
    for pair in perceptrons(before).values():
        moved = [model.get_parameter(f"{n}.weight") - before.get_parameter(f"{n}.weight") for n in pair]
        found.append(float(sum(value.detach().square().sum() for value in moved) ** 0.5))
    return found


def measured(model: Classifier, before: Classifier, request: Request, seed: int) -> dict[str, float]:
    """Return all columns of one model."""
    forget, kept = (request.of(request.test, classes) for classes in (request.classes, request.kept))
    acc_f, acc_r = accuracy(model, forget), accuracy(model, kept)
    known = accuracy(request.first, forget)
    moved, roles = changes(model, before), request.roles
    probed = probe(features(model, roles.forget), features(model, roles.retain), features(model, forget))
    values = {
        "H": h_mean(acc_r, known, acc_f), "r": acc_r, "f": acc_f,
        "probe": 100 * probed.unseen, "relearn": relearned(model, request, request.classes, seed),
        "still": float(sum(value < 1e-3 for value in moved)), "change": sum(moved),
    }  # fmt: skip
    if request.earlier:
        values["o"] = accuracy(model, request.of(request.test, request.earlier))
        values["relearn o"] = relearned(model, request, request.earlier, seed)
    return values


def masked(model: Classifier, request: Request) -> Classifier:
    """Return a model that never predicts a forgotten class: only rows of the head are changed."""
    model = copy.deepcopy(model)
    with torch.no_grad():
        model.classifier.bias[request.classes] = -1e4
    return model


def measured_mask(model: Classifier, request: Request, seed: int) -> dict[str, float]:
    """Return all columns of the masked head. Relearning it means to remove the mask, so it relearns at once."""
    values, bare = measured(masked(model, request), model, request, seed), request.first
    values["relearn"] = accuracy(bare, request.of(request.test, request.classes))
    if request.earlier:
        values["relearn o"] = accuracy(bare, request.of(request.test, request.earlier))
    return values
