"""H of continual forgetting: one number for the loss on forgotten classes and the accuracy left on kept classes.

H = 2 Acc_r Drop / (Acc_r + Drop),   Drop = Acc_f(first model) - Acc_f,
with Acc_r and Acc_f the test accuracies on the kept classes and on those of this request. The first model is the one
before any request of a sequence, as in the tables of "Continual Forgetting for Pre-trained Vision Models"
(arXiv:2403.11530).
"""

from unlearning.evaluation.metric import Metric, percent

METRICS = (
    Metric("accuracy_kept", "Kept", "test accuracy on the kept classes", "high", 0, 1, write=percent,
           brief=True),
    Metric("h_mean", "H",
           "harmonic mean of Kept and of the drop of accuracy on the forgotten classes since the first model",
           "high", 0, 1, reading="a masked classifier has the best value, so read it together with the probe",
           write=percent, brief=True),
)  # fmt: skip


def h_mean(kept: float, before: float, after: float) -> float:
    """Return H in [0, 1] of accuracies in [0, 1]; 0 if nothing was forgotten.

    Parameters
    ----------
    kept
        Acc_r.
    before, after
        Acc_f of the first model, and now.
    """
    drop = before - after
    return 2 * kept * drop / (kept + drop) if drop > 0 else 0.0
