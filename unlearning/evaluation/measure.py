"""Fills the report of one unlearned model from logits alone."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from unlearning.evaluation.accuracies import accuracy_standard_error
from unlearning.evaluation.catalogue import METRICS
from unlearning.evaluation.divergence import activation_distance, js_divergence
from unlearning.evaluation.efficiency import run_time_efficiency
from unlearning.evaluation.ensembles import Ensembles, measure_ensembles
from unlearning.evaluation.gaps import average_gap, tug_of_war
from unlearning.evaluation.model_facts import model_facts
from unlearning.evaluation.relearn import Relearn, relearn_ratio
from unlearning.evaluation.report import ForgettingReport, Measurement, ModelFacts, Splits, Trio
from unlearning.evaluation.scores import Array

GAP_METRICS = ("accuracy_forget", "accuracy_retain", "accuracy_test", "mia_auc")
"""What the average gap is over; the attack is left out where it is not known."""

Values = dict[str, float]


def measure_forgetting(
    method: str,
    labels: Splits[Array],
    unlearned: Splits[Array],
    original: Splits[Array],
    oracles: Sequence[Splits[Array]],
    rng: np.random.Generator,
    *,
    ensembles: Ensembles | None = None,
    relearns: Trio[Relearn] | None = None,
    seconds: Trio[float] | None = None,
    floors: bool = True,
) -> ForgettingReport:
    """Return all that can be known from what is given; a metric that cannot says what it lacks.

    Methods and seeds of one comparison should each get a generator of the same state: attacks then see the same
    samples. Any model can stand in for the unlearned one, such as the constant predictor or plain fine-tuning.

    Parameters
    ----------
    labels
        (n_s,) of each set s
    unlearned, original, oracles
        logits (n_s, C) of each set s; at least one oracle
    ensembles
        margins of N unlearned models and N oracles, for the metrics of `catalogue.many_oracle_metrics`
    relearns, seconds
        relearn time and training time of the three models
    floors
        also run each attack on halves of the never-seen data; most of the time is spent there
    """
    if not oracles:
        raise ValueError("there is no oracle: without a retrained model no distance to it is known")
    seed = int(rng.integers(2**63))

    def facts_of(logits: Splits[Array], with_floors: bool) -> ModelFacts:
        return model_facts(labels, logits, np.random.default_rng(seed), floors=with_floors)

    diverged = not all(np.isfinite(np.asarray(z, np.float64)).all() for _, z in unlearned.items())
    ours = None if diverged else facts_of(unlearned, floors)
    facts = facts_of(original, floors)
    targets = [facts_of(oracle, floors and i == 0) for i, oracle in enumerate(oracles)]
    sizes = {name: len(np.asarray(y)) for name, y in labels.items()}

    metrics = _own_metrics(ours, facts, targets, sizes)
    metrics |= _distances(None if diverged else unlearned, original, oracles, (ours, facts, targets))
    metrics |= measure_ensembles(ensembles, rng)
    metrics |= _costs(relearns, seconds)
    why = "the model diverged" if diverged else "not measured"
    return ForgettingReport(
        method=method,
        sizes=sizes | {"matched": _matched(facts)},
        num_oracles=max(len(oracles), ensembles.num_oracles if ensembles else 0),
        num_unlearned=ensembles.num_unlearned if ensembles else 1,
        diverged=diverged,
        metrics={name: metrics.get(name) or Measurement(None, note=why) for name in METRICS},
        unlearned=ours,
        original=facts,
        oracle=targets[0],
    )


def _matched(facts: ModelFacts) -> int:
    return facts.attacks["mia_auc"].size if facts.attacks else 0


def _own_metrics(
    ours: ModelFacts | None, original: ModelFacts, oracles: list[ModelFacts], sizes: dict[str, int]
) -> dict[str, Measurement]:
    """Return the metrics that each model has on its own, next to each other."""
    out = {}
    for name, before in original.values.items():
        targets = [oracle.values[name] for oracle in oracles]
        target = float(np.mean(targets))
        value = None if ours is None else ours.values[name]
        error = null = None
        if ours is not None and name in ours.attacks:
            attack = ours.attacks[name]
            error, null = attack.standard_error, attack.floor.mean if attack.floor else None
        elif value is not None and name.startswith("accuracy_"):
            error = accuracy_standard_error(value, sizes[name.removeprefix("accuracy_")])
        out[name] = Measurement(
            value, before, target, _sd(targets), None if value is None else value - target, error, null,
            "the model diverged" if value is None else "",
        )  # fmt: skip
    missing = "too few never-seen samples of the forget set's classes"
    return {
        name: Measurement(None, note=missing) for name in ("mia_auc", "mia_threshold", "mia_logistic", "nomus")
    } | out


def _distances(
    unlearned: Splits[Array] | None,
    original: Splits[Array],
    oracles: Sequence[Splits[Array]],
    facts: tuple[ModelFacts | None, ModelFacts, list[ModelFacts]],
) -> dict[str, Measurement]:
    """Return distances to the oracles; of several the mean. `oracle` is each one's distance to the others."""
    ours, before, targets = facts
    mine = None if unlearned is None or ours is None else _to_oracles(unlearned, ours, oracles, targets)
    theirs = _to_oracles(original, before, oracles, targets)
    among = [
        _to_oracles(oracles[i], targets[i], [*oracles[:i], *oracles[i + 1 :]], [*targets[:i], *targets[i + 1 :]])
        for i in range(len(oracles) if len(oracles) > 1 else 0)
    ]
    out = {}
    for name, distance in theirs.items():
        floor = [row[name] for row in among]
        target = float(np.mean(floor)) if floor else None
        value = mine[name] if mine else None
        gap = None if value is None or target is None else value - target
        note = "the model diverged" if value is None else "" if floor else "one oracle: its own noise is not known"
        out[name] = Measurement(value, distance, target, _sd(floor), gap, note=note)
    return out


def _to_oracles(
    logits: Splits[Array], facts: ModelFacts, oracles: Sequence[Splits[Array]], targets: list[ModelFacts]
) -> Values:
    """Return the distances of one model: of outputs the mean over oracles, of numbers to the oracles' mean."""
    names = [name for name in GAP_METRICS if name in facts.values]
    target = {name: float(np.mean([t.values[name] for t in targets])) for name in names}
    forget, retain, test = ((facts.values[name], target[name]) for name in GAP_METRICS[:3])
    return {
        "average_gap": average_gap(facts.values, target),
        "tug_of_war": tug_of_war(forget, retain, test),
        "js_forget": float(np.mean([js_divergence(logits.forget, o.forget) for o in oracles])),
        "js_test": float(np.mean([js_divergence(logits.test, o.test) for o in oracles])),
        "activation_forget": float(np.mean([activation_distance(logits.forget, o.forget) for o in oracles])),
    }


def _costs(relearns: Trio[Relearn] | None, seconds: Trio[float] | None) -> dict[str, Measurement]:
    out = {}
    if relearns is not None:
        u, o, r = relearns.unlearned, relearns.original, relearns.oracle
        late = [name for name, x in (("unlearned", u), ("original", o), ("oracle", r)) if not x.reached]
        note = f"not reached in the steps given: {', '.join(late)}" if late else ""
        out["relearn_steps"] = Measurement(u.steps, o.steps, r.steps, gap=u.steps - r.steps, note=note)
        out["relearn_ratio"] = Measurement(relearn_ratio(u, r), relearn_ratio(o, r), relearn_ratio(r, r), note=note)
    if seconds is not None:
        s = seconds
        out["seconds"] = Measurement(s.unlearned, s.original, s.oracle, gap=s.unlearned - s.oracle)
        out["run_time_efficiency"] = Measurement(run_time_efficiency(s.unlearned, s.oracle), None, 1.0)
    return out


def _sd(values: Sequence[float]) -> float | None:
    return float(np.std(values, ddof=1)) if len(values) > 1 else None
