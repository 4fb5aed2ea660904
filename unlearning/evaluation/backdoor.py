"""Backdoor success: the success rate of a trigger that only the forgotten clients have planted."""

from unlearning.evaluation.metric import Metric, percent

METRICS = (
    Metric("trigger_success", "Trigger works",
           "share of test samples with the trigger that are predicted as its target",
           "oracle", 0, 1, reading="above the oracle's: the backdoor still works", write=percent),
)  # fmt: skip
