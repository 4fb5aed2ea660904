"""The summary names the units that help most and harm most, on average over the targets."""

import numpy as np

from unlearning.evaluation.lds import Lds
from unlearning.pipeline.attribution import Attribution, summary


def test_units_are_named_in_the_order_of_their_mean_scores() -> None:
    scores = np.array([[1.0, -2.0, 0.5], [2.0, 0.0, 0.5]])
    told = Lds(0.5, 0.25, 0.75, 20)
    made = Attribution(scores, np.arange(2), np.array([4, 7, 9]), "client", "trak", 5, "class=3", told)
    assert summary(made) == [
        "most helpful: client 4 (+1.5), client 9 (+0.5)",
        "most harmful: client 7 (-1)",
        "LDS 0.500 [0.250, 0.750] over 20 retrained models",
    ]


def test_a_unit_that_helps_is_never_called_harmful() -> None:
    made = Attribution(np.array([[1.0, 0.0, 2.0]]), np.arange(1), np.arange(3), "sample", "trak", 5, "test=0")
    assert summary(made) == ["most helpful: training sample 2 (+2), training sample 0 (+1)", "most harmful: none"]
