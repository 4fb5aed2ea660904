"""FedBN."""

import pytest

from fedsim.errors import FedsimError
from tests.strategies.small_runs import begin


def test_fedbn_needs_batch_norm():
    with pytest.raises(FedsimError, match=r"model\.norm: fedbn keeps batch norm with the clients"):
        begin("fedbn", {"model.norm": "group"})
