"""A method that writes down what it got."""

from typing import Any

import numpy as np
import torch

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import Method, UnlearningConfig, unlearning
from unlearning.api.view import View
from unlearning.pipeline.apply import options_of, unlearn_with
from unlearning.pipeline.roles import Roles
from unlearning.pipeline.source import Source


def probe(registry: dict[str, Method], needs: Needs, seen: dict[str, Any], forgets: Any = ("class",)) -> Method:
    """Register a method that writes down what it got."""

    @unlearning("probe", UnlearningConfig, needs=needs, forgets=set(forgets))
    def look(
        model: Classifier, forget: View, retain: View | None, config: UnlearningConfig, rng: np.random.Generator
    ) -> Classifier:
        seen.update(forget=forget, retain=retain, draw=(rng.random(), float(torch.rand(()))))
        seen["gradients"] = model(forget.all()[0][:1]).requires_grad
        with torch.no_grad():
            model.classifier.bias += 1
        return model

    return registry["probe"]


def run_probe(method: Method, source: Source, roles: Roles, seed: int = 0) -> Classifier:
    return unlearn_with(method, options_of(method, {}), source.model, roles, seed).model
