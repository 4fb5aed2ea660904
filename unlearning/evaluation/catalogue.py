"""Every metric of the report: what it is, how it is read, and how many oracles it takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from unlearning.evaluation import epsilon_score, klom, u_lira


@dataclass(frozen=True)
class Metric:
    """What a reader needs to know of a metric."""

    title: str
    target: Literal["oracle", "low", "high"]
    """Best where it is close to the oracle's value, low or high."""
    low: float
    high: float | None
    """Range; None is unbounded."""
    unit: str
    formula: str
    """Number in section 4 of the survey card, or where else it is defined."""
    oracles: int = 0
    """Retrained models without which it is not known. From 2 on, as many unlearned models are needed too."""
    steady_from: int = 1
    """Retrained models from which on its noise is small."""
    reading: str = ""


def _accuracy(split: str, reading: str = "") -> Metric:
    return Metric(f"accuracy on the {split} set", "oracle", 0, 1, "fraction", "1", reading=reading)


def _klom(title: str) -> Metric:
    return Metric(title, "low", -2e-4, 11.52, "nats", "14", klom.MIN_MODELS, klom.GOOD_MODELS,
                  "far above 0 for alike models where they are few: read it next to its null")  # fmt: skip


METRICS = {
    "accuracy_forget": _accuracy("forget", "FA; UA is 1 - FA. Neither high nor low is good: the oracle's is"),
    "accuracy_forget_bn": Metric("accuracy on the forget set once batch norm is re-estimated on kept samples", "oracle",
                                 0, 1, "fraction", "batch_norm.py",
                                 reading="far above the accuracy on the forget set: hidden, not forgotten"),
    "accuracy_retain": _accuracy("retain"),
    "accuracy_test": _accuracy("test"),
    "accuracy_unseen": _accuracy("never-seen"),
    "loss_forget": Metric("mean loss on the forget set", "oracle", 0, None, "nats", "cross-entropy"),
    "loss_unseen": Metric("mean loss on never-seen data", "oracle", 0, None, "nats", "cross-entropy"),
    "mia_auc": Metric("attack by loss, AUC", "oracle", 0, 1, "fraction", "7",
                      reading="above 0.5 remembered, below 0.5 over-forgotten"),
    "mia_threshold": Metric("attack by the best loss threshold, balanced accuracy", "oracle", 0.5, 1, "fraction", "7",
                            reading="above chance remembered; blind to over-forgetting"),
    "mia_logistic": Metric("attack by logistic regression on the loss, accuracy", "oracle", 0, 1, "fraction", "8",
                           reading="above 0.5 remembered or over-forgotten, as its sign says"),
    "nomus": Metric("NoMUS", "high", 0, 1, "fraction", "6",
                    reading="a constant predictor scores (largest class share + 1) / 2: never rank by it"),
    "average_gap": Metric("average gap: accuracies on forget, retain, test and mia_auc", "low", 0, 100,
                          "percentage points", "2", 1, 3),
    "tug_of_war": Metric("tug of war", "high", 0, 1, "fraction", "3", 1, 3),
    "js_forget": Metric("Jensen-Shannon divergence on the forget set", "low", 0, 0.6932, "nats", "15", 1, 3),
    "js_test": Metric("Jensen-Shannon divergence on the test set", "low", 0, 0.6932, "nats", "15", 1, 3),
    "activation_forget": Metric("activation distance (l2) on the forget set", "low", 0, 1.4143, "probability", "16",
                                1, 3),
    "klom_forget": _klom("KLOM on the forget set, mean"),
    "klom_forget_p95": _klom("KLOM on the forget set, 95th percentile"),
    "klom_retain": _klom("KLOM on the retain set, mean"),
    "klom_test": _klom("KLOM on the test set, mean"),
    "u_lira": Metric("U-LiRA, accuracy", "oracle", 0, 1, "fraction", "12", u_lira.MIN_PAIRS, 64,
                     "0.5 as if never seen; above: unlearned and never-seen models are told apart"),
    "u_lira_auc": Metric("U-LiRA, AUC", "oracle", 0, 1, "fraction", "12", u_lira.MIN_PAIRS, 64, "as u_lira"),
    "forgetting_quality": Metric("forgetting quality of the NeurIPS-2023 challenge", "high", 0, 1, "fraction", "13",
                                 epsilon_score.MIN_MODELS, 64, "about 0.2 for alike models: read it next to its null"),
    "relearn_steps": Metric("steps to relearn the forget set", "oracle", 0, None, "steps", "17",
                            reading="fewer than the oracle: residual memory; far more: damage"),
    "relearn_ratio": Metric("relearn steps / the oracle's", "oracle", 0, None, "ratio", "17", 1),
    "seconds": Metric("training time", "low", 0, None, "seconds", "18"),
    "peak_mb": Metric("most memory beyond what was held before", "low", 0, None, "MB", "18"),
    "attack_seconds": Metric("time of the attacks on one model, floors and relearning included", "low", 0, None,
                             "seconds", "18"),
    "run_time_efficiency": Metric("oracle's time / method's time", "high", 0, None, "ratio", "18", 1),
    "rounds": Metric("rounds in which clients trained", "low", 0, None, "rounds", "18"),
    "clients_woken": Metric("times that a client trained in a round", "low", 0, None, "clients", "18"),
    "history_mb": Metric("stored history that was read", "low", 0, None, "MB", "18"),
}  # fmt: skip


def many_oracle_metrics() -> dict[str, int]:
    """Return the metrics that need N oracles and N unlearned models, and the smallest N of each."""
    return {name: metric.oracles for name, metric in METRICS.items() if metric.oracles > 1}
