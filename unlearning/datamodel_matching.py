"""DMM, datamodel matching: predict the outputs of retraining, then fine-tune the model to these outputs.

Models trained on random subsets show by how much Δ_F(x) the logits of every sample would change without F (see
`unlearning.parts.datamodels`). The targets are t(x) = z(x; θ_0) − Δ_F(x), with θ_0 the original model in evaluation
mode and Δ_F with its scale; then `unlearning.parts.matching`. Serving t itself, without training, is DM-Direct, which
is shown beside it. "Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (arXiv:2410.23232).

Differs from the paper: units are clients if whole clients are forgotten, and otherwise groups of the size of the
request; not samples, which need thousands of models. Nine of ten units are kept, not half of them. The scale is fitted
on held-out subset models. The table shows the cost of all these models, and the number of requests that pays it back.
"""

import copy
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.matching import MatchingConfig, match
from unlearning.parts.steps import required


class DatamodelMatchingConfig(MatchingConfig):
    """Options of datamodel matching."""

    unit: Literal["auto", "client", "group", "sample"] = "auto"
    """The units that subset models leave out: clients serve all requests for clients, groups only this request."""
    share: float = Field(0.9, gt=0, lt=1)
    """α, the probability with which a subset model keeps a unit."""
    models: int | None = Field(None, ge=5)
    """Number of subset models; by default ten per unit."""
    estimator: Literal["ridge", "means"] = "ridge"
    """Ridge regression, or differences of means."""
    scale: float | None = Field(None, ge=0)
    """κ, by default fitted on held-out models; 0 does not change the model."""


@unlearning(
    "datamodel_matching",
    DatamodelMatchingConfig,
    Needs(forget_labels=False, retain_labels=False, attribution=True),
    {"class", "samples", "clients"},
)
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: DatamodelMatchingConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, matched to the predicted outputs of retraining."""
    kept, before = required(retain), copy.deepcopy(model).eval()
    shift = torch.cat([required(forget.shift), required(kept.shift)])

    def targets(x: Tensor, rows: Tensor) -> Tensor:
        with torch.no_grad():
            logits: Tensor = before(x)
        return logits - shift[rows]

    return match(model, forget, kept, targets, config, rng)
