"""The summary names the units that help most and harm most, on average over the targets."""

import numpy as np

from unlearning.evaluation.lds import Lds
from unlearning.pipeline.attribution import Attribution, summary


def test_units_are_named_in_the_order_of_their_mean_scores() -> None:
    scores = np.array([[1.0, -2.0, 0.5], [2.0, 0.0, 0.5]])
    told = Lds(0.5, 0.25, 0.75, 20)
    made = Attribution(scores, np.arange(2), np.array([4, 7, 9]), "client", "trak", 5, "class=3", told)
    assert summary(made) == [
        "most helpful: client 4 (+1.5), client 9 (+0.5), client 7 (-1)",
        "most harmful: client 7 (-1), client 9 (+0.5), client 4 (+1.5)",
        "LDS 0.500 [0.250, 0.750] over 20 retrained models",
    ]
