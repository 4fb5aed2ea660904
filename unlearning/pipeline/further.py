"""`--models N`: margins of N originals, N oracles and N models of each method; the models are not kept."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from fedsim.models.base import Classifier
from unlearning.pipeline.ensemble import IntArray, Kept, Member, Part, train_members
from unlearning.pipeline.forget import Request
from unlearning.pipeline.measure import Brief, brief
from unlearning.pipeline.roles import rows_of_tests
from unlearning.pipeline.source import Source

Apply = Callable[[Classifier, int], Brief | None]
"""(an original, its seed) -> measurements of the method's result."""


def further_models(
    source: Source,
    request: Request,
    seeds: Sequence[int],
    methods: Mapping[str, Apply],
    say: Callable[[str], None],
) -> dict[str, list[Brief]]:
    """Return measurements of models of further seeds: of "original", "oracle" and each method.

    Originals serve all requests of a run. Models whose outputs are not finite are left out.
    """
    originals = train_members(source, [Member(seed) for seed in seeds], frozenset({"model"}), say, "originals")
    left_out = [Member(seed, request.rows) for seed in seeds]
    oracles = train_members(source, left_out, frozenset(), say, f"oracles without {request.spec}")
    known = _Known(source, request)
    found = {"original": [known(kept) for kept in originals], "oracle": [known(kept) for kept in oracles]}
    for name, apply in methods.items():
        say(f"{name}: applied to {len(originals)} originals more")
        found[name] = [apply(kept.model(source), own) for own, kept in zip(seeds, originals, strict=True)]
    return {name: [model for model in models if model is not None] for name, models in found.items()}


class _Known:
    """Reads the measurements of a member that a request needs."""

    def __init__(self, source: Source, request: Request) -> None:
        self.seed, dataset = source.config.seed, source.data.dataset
        tests = rows_of_tests(source.data, request, self.seed)
        self.rows: dict[str, tuple[Part, IntArray]] = {
            "forget": ("train", request.rows), "retain": ("train", request.retain),
            "test": ("test", tests.test), "unseen": (tests.never, tests.unseen),
        }  # fmt: skip
        self.labels = {
            role: np.asarray(getattr(dataset, f"y_{part}")[rows], np.int64) for role, (part, rows) in self.rows.items()
        }

    def __call__(self, kept: Kept) -> Brief | None:
        margins = {role: kept.margins(part, rows) for role, (part, rows) in self.rows.items()}
        right = {role: kept.right(part, rows) for role, (part, rows) in self.rows.items()}
        return brief(margins, right, self.labels, self.seed)
