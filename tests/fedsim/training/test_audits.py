"""Notes on samples are measured against labels that only the audit sees."""

import numpy as np
import torch

from fedsim.federated.types import Annotation
from fedsim.training.audits import measured
from fedsim.training.streams import Annotated


def test_each_client_is_measured_on_its_own_rows() -> None:
    def audit(annotation: Annotation, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"right": (annotation.notes["guess"] == labels).float().mean()}

    def of(rows: list[int], guesses: list[int]) -> Annotated:
        keep = torch.ones(len(rows), dtype=torch.bool)
        return Annotated(np.array(rows), Annotation(keep, {"guess": torch.tensor(guesses)}))

    y = np.array([0, 1, 2, 3])
    found = measured([(audit, [of([3, 1], [3, 0]), None, of([2], [2])])], y, torch.device("cpu"))
    assert list(found) == ["right"]
    np.testing.assert_array_equal(found["right"], [0.5, np.nan, 1.0])
    assert measured([], y, torch.device("cpu")) == {}
