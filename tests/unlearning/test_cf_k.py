"""CF-k and EU-k: which blocks they move."""

import pytest

from tests.unlearning.digits_views import apply, differs, few, new_model
from unlearning.parts.blocks import blocks, tail


@pytest.mark.parametrize(("name", "norm"), [("cnn", "batch"), ("resnet8", "batch"), ("vit", None)])
@pytest.mark.parametrize("num_blocks", [0, 1, 2])
@pytest.mark.parametrize("method", ["cf_k", "eu_k"])
def test_the_first_blocks_keep_every_bit_and_the_last_all_move(method, name, norm, num_blocks):
    model, views = new_model(name, norm, **({} if name == "cnn" else {"width": 8})), few(9, 38)
    result = apply(method, model, *views, epochs=1, batch_size=37, blocks=num_blocks)
    inside = {id(tensor) for module in tail(model, num_blocks) for tensor in module.state_dict(keep_vars=True).values()}
    free = {tensor for tensor, value in model.state_dict(keep_vars=True).items() if id(value) in inside}
    assert differs(result, model) == free
    assert len(blocks(model)) > num_blocks
    assert free >= {"classifier.weight", "classifier.bias"}
