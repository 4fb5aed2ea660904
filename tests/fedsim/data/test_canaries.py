"""Canaries are where they say, and nothing else changes."""

import numpy as np
import pytest

from fedsim.config.resolve import resolve
from fedsim.data.canaries import with_trigger
from fedsim.data.federation import FederatedData, federate
from fedsim.errors import FedsimError


def data(**canaries: object) -> FederatedData:
    config = resolve({"clients": 6, "data": {"canaries": canaries} if canaries else {}})
    return federate(config.data, config.clients, config.seed)


def test_each_kind_is_planted_at_its_rows_and_nowhere_else() -> None:
    plain, planted = data(), data(backdoor_clients=[2], backdoor_target=7, mislabelled=0.1, duplicated=5, copies=4)
    assert planted.canaries is not None
    rows, x, y = planted.canaries.rows, planted.dataset.x_train, planted.dataset.y_train
    before = plain.dataset
    assert np.array_equal(rows["backdoor"], np.sort(plain.partition[2]))
    assert np.array_equal(x[rows["backdoor"]], with_trigger(before.x_train[rows["backdoor"]]))
    assert (x[rows["backdoor"], :, -2:, -2:] == 255).all()  # a quarter of 8 pixels
    assert (y[rows["backdoor"]] == 7).all()
    wrong = rows["mislabelled"]
    assert len(wrong) == round(0.1 * (len(plain.partition.indices) - len(rows["backdoor"])))
    assert (y[wrong] != before.y_train[wrong]).all()
    negatives = rows["duplicated"]
    assert len(negatives) == 5 * 4
    assert np.array_equal(x[negatives[:5]], 255 - before.x_train[negatives[:5]])
    assert len(np.unique(x[negatives], axis=0)) == 5
    owners = dict(zip(planted.partition.indices.tolist(), planted.partition.owners.tolist(), strict=True))
    copies = {x[row].tobytes(): owners[row] for row in negatives.tolist()}
    assert all(copies[x[row].tobytes()] == owners[row] for row in negatives.tolist())  # all with one client
    same = np.setdiff1d(np.arange(len(before.y_train)), np.concatenate(list(rows.values())))
    assert np.array_equal(x[same], before.x_train[same])
    assert np.array_equal(y[same], before.y_train[same])
    assert np.array_equal(planted.dataset.x_test, before.x_test)


@pytest.mark.parametrize(
    ("canaries", "said"),
    [({"backdoor_clients": [9]}, "no client 9"), ({"backdoor_clients": [1], "backdoor_target": 10}, "no class 10")],
)
def test_what_is_not_there_is_refused(canaries: dict[str, object], said: str) -> None:
    with pytest.raises(FedsimError, match=said):
        data(**canaries)
