"""Metrics of the staying clients' personal models: what these still know of the forgotten samples."""

from unlearning.evaluation.metric import Metric, percent

METRICS = (
    Metric("personal_own", "Personal", "accuracy of staying clients' personal models on their own test samples", "high",
           0, 1, write=percent),
    Metric("personal_forget", "Personal forget", "accuracy of staying clients' personal models on the forget set",
           "oracle", 0, 1, reading="above the oracle's: they have learned from the forget set", write=percent),
    Metric("personal_unseen", "Personal unseen", "accuracy of staying clients' personal models on never-seen samples",
           "oracle", 0, 1, write=percent),
)  # fmt: skip
