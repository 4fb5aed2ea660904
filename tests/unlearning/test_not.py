"""NoT: the first layers are negated."""

import copy

import torch

from tests.unlearning.digits_views import assert_same_bits, differs, new_model
from unlearning.not_ import negate_first


def test_not_negates_the_first_layers_and_twice_is_the_identity():
    model = new_model(norm="batch")
    turned = copy.deepcopy(model)
    negate_first(turned, 2)
    assert differs(turned, model) == {f"features.{n}.{kind}" for n in (0, 3) for kind in ("weight", "bias")}
    assert torch.equal(turned.features[3].weight, -model.features[3].weight)
    negate_first(turned, 2)
    assert_same_bits(turned, model)
