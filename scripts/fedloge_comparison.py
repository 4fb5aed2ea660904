"""Train several methods on the same splits, and tabulate all ways in which each can predict.

Used by `fedloge_digits.py`, `fedloge_fashion.py` and `fedloge_gpu.py`. All numbers are percentages, the mean of the
last three evaluations of a run:

- `global`: accuracy on the balanced test set, over all classes;
- `tail`: the same over the rarer half of the classes;
- `masked`: mean over clients of the accuracy on their own test sets, without the classes of which a client has no
  training sample;
- `unmasked`: the same with all classes.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import torch.nn.functional as F
from torch import Tensor

from fedsim.config.resolve import find_config, resolve
from fedsim.evaluation import HeadScore, TestSet
from fedsim.flower.records import Tensors
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import Metrics
from strategies.fedloge import realign_global

COLUMNS = ("global", "tail", "masked", "unmasked")
OWN = ""
"""The row of the method's own way to predict; other rows have the name of a head."""
HEAD_NORM = 1.7
EVALUATIONS = 3

Scores = dict[tuple[str, str], float]
"""(Head, column) -> percentage."""
Row = dict[str, list[float]]
"""Column -> percentages, one per seed."""


@dataclass(frozen=True)
class Method:
    """A preset and its overrides."""

    preset: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    realign: Sequence[str] = ()
    """Treatments of the bias; the global classifier after GLA-FR is also scored with each of them."""


@dataclass
class Results:
    """Rows by (method, head)."""

    rows: dict[tuple[str, str], Row] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    """Mean wall time of a run in seconds, by method."""

    def of(self, method: str, head: str, column: str) -> list[float]:
        """Return one number per seed."""
        return self.rows[method, head][column]

    def table(self) -> str:
        """Return a Markdown table of mean ± standard deviation over the seeds."""
        lines = [f"| method | head | {' | '.join(COLUMNS)} |", "|" + " --- |" * (len(COLUMNS) + 2)]
        for (method, head), row in self.rows.items():
            cells = [_cell(row.get(column, [])) for column in COLUMNS]
            lines.append(f"| {' | '.join([method, head or 'own', *cells])} |")
        return "\n".join(lines)

    def write(self, path: Path) -> None:
        """Write all numbers as JSON."""
        rows = [{"method": m, "head": head or "own", **row} for (m, head), row in self.rows.items()]
        path.write_text(json.dumps({"rows": rows, "seconds": self.seconds}, indent=1) + "\n", encoding="utf-8")


def compare(methods: Mapping[str, Method], seeds: Sequence[int], overrides: Mapping[str, Any]) -> Results:
    """Train every method with every seed; `overrides` (dotted keys) apply to all methods. Prints a line per run."""
    results = Results()
    for name, method in methods.items():
        begun = time.perf_counter()
        for seed in seeds:
            scores = _train(method, {**overrides, "seed": seed})
            for (head, column), value in scores.items():
                results.rows.setdefault((name, head), {}).setdefault(column, []).append(round(value, 2))
            own = {column: round(value, 1) for (head, column), value in scores.items() if head == OWN}
            print(f"{name}, seed {seed}: {own}", flush=True)
        results.seconds[name] = round((time.perf_counter() - begun) / len(seeds), 1)
    return results


def _train(method: Method, overrides: Mapping[str, Any]) -> Scores:
    config = resolve(find_config(method.preset), method.overrides, overrides)
    simulation = Simulation(config)
    engine, state = simulation.engine(), simulation.begin()
    measured: list[Scores] = []
    try:
        while state.round < config.rounds:
            metrics = simulation.step(state, engine)
            if state.round % config.eval_every == 0 or state.round == config.rounds:
                measured.append(_client_scores(metrics) | _global_scores(method, simulation, state.tensors))
    finally:
        engine.close()
    last = measured[-EVALUATIONS:]
    return {key: mean(scores[key] for scores in last) for key in last[-1]}


def _client_scores(metrics: Metrics) -> Scores:
    found = {}
    for name, value in metrics.items():
        scope, _, metric = name.partition("/")
        if scope.startswith("clients") and metric in ("accuracy_masked", "accuracy_unmasked"):
            head = scope.removeprefix("clients").removeprefix("_")
            found[head, metric.removeprefix("accuracy_")] = 100 * value
    return found


def _global_scores(method: Method, simulation: Simulation, tensors: Tensors) -> Scores:
    heads = simulation.scores(tensors)
    named = {head if number else OWN: score for number, (head, score) in enumerate(heads.items())}
    if method.realign:
        tests = TestSet(simulation.data.dataset, simulation.worker.device)
        named |= tests.score(lambda x: _realigned(method, simulation, tensors, x))
    counts = simulation.data.class_counts
    rarer = counts.argsort(kind="stable")[: len(counts) // 2]
    found = {}
    for head, score in named.items():
        assert isinstance(score, HeadScore)
        found[head, "global"] = 100 * score.accuracy
        found[head, "tail"] = 100 * float(score.per_class[rarer].mean())
    return found


def _realigned(method: Method, simulation: Simulation, tensors: Tensors, x: Tensor) -> Tensors:
    """Return the logits of the global classifier after GLA-FR, for each treatment of its bias."""
    state = simulation.server.split(tensors)
    features = simulation.server.model.features(state.params, state.buffers, x, train=False)
    weight, bias = tensors["classifier.weight"], tensors["classifier.bias"]
    return {
        f"GLA-FR, bias {bias_rule}": F.linear(features, *realign_global(weight, bias, HEAD_NORM, bias_rule))
        for bias_rule in method.realign
    }


def _cell(values: Iterable[float]) -> str:
    numbers = list(values)
    if not numbers:
        return "-"
    return f"{mean(numbers):.1f}" + (f" ± {stdev(numbers):.1f}" if len(numbers) > 1 else "")
