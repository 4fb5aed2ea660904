"""Reference models that help to interpret metrics: a constant predictor, and the original with a masked head."""

from __future__ import annotations

import copy

import numpy as np
import torch

from fedsim.models.base import Classifier
from unlearning.api.view import View
from unlearning.evaluation.constant_predictor import constant_logits

_BELOW_ALL = -1e4
"""The logit of a masked class, far below all others."""


@torch.no_grad()
def constant_predictor(model: Classifier, retain: View) -> Classifier:
    """Return a copy that predicts the class frequencies of the kept samples for every input."""
    assert retain.y is not None
    constant = copy.deepcopy(model)
    logits = constant_logits(retain.y.cpu().numpy(), model.classifier.out_features, 1)[0]
    constant.classifier.weight.zero_()
    constant.classifier.bias.copy_(torch.from_numpy(logits))
    return constant


@torch.no_grad()
def masked_head(model: Classifier, forget: View, retain: View) -> Classifier | None:
    """Return a copy that never predicts a class without kept samples; None if all classes have kept samples.

    Its features still separate the class, so a probe or a few training steps bring the class back.
    """
    assert forget.y is not None
    assert retain.y is not None
    if forget.several_labels:
        return None
    lost = np.setdiff1d(forget.y.cpu().numpy(), retain.y.cpu().numpy())
    if not len(lost):
        return None
    masked = copy.deepcopy(model)
    rows = torch.from_numpy(lost).to(masked.classifier.bias.device)
    masked.classifier.weight[rows] = 0
    masked.classifier.bias[rows] = _BELOW_ALL
    return masked
