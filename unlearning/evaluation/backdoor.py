"""Backdoor success: the success rate of a trigger that only the forgotten clients have planted."""

from unlearning.evaluation.metric import Metric, percent

METRICS = (
    Metric("trigger_success", "Trigger works", "test samples with the trigger that are answered with its target",
           "oracle", 0, 1, reading="above the oracle's: the backdoor is still there", write=percent),
)  # fmt: skip
