"""NoMUS: utility and forgetting in one number, (TA + 1 - 2 |MIA - 1/2|) / 2 (MUFAC, arXiv:2311.02240).

It rewards the trivial predictor: constant outputs give (largest class share + 1) / 2, as the attack is at chance then.
Never rank by it. Show it beside the constant predictor's value, with accuracy and attack as separate numbers.
"""

from unlearning.evaluation.metric import Metric

METRICS = (
    Metric("nomus", "NoMUS", "NoMUS, which combines utility and forgetting", "high", 0, 1,
           reading="a constant predictor scores (largest class share + 1) / 2: never rank by it"),
)  # fmt: skip


def nomus(test_accuracy: float, mia: float, weight: float = 0.5) -> float:
    """Return weight * accuracy + (1 - weight) * (1 - 2 |MIA - 1/2|), in [0, 1], higher is better.

    `mia` is the logistic attack's accuracy; all arguments are in [0, 1].
    """
    return weight * test_accuracy + (1 - weight) * (1 - 2 * abs(mia - 0.5))
