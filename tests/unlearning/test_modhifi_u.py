"""What ModHiFi-U edits; the scores themselves are tested with `fedsim.models.fidelity`."""

import numpy as np
import pytest
import torch

from fedsim.models.fidelity import component_sums, editable_layers, singleton_fidelity
from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, new_model


@pytest.mark.parametrize(
    ("name", "norm", "layer"), [("resnet8", "batch", "features.5.residual.3"), ("cnn", None, "features.5")]
)
@pytest.mark.parametrize("per", ["output", "layer"])
def test_exactly_the_best_slices_of_the_listed_layers_become_zero(name, norm, layer, per):
    model, (forget, _) = new_model(name, norm), few()
    result = apply("modhifi_u", model, forget, None, share=0.1, per=per, layers=1)
    layers = editable_layers(model)
    last = list(layers)[-1]
    assert last == layer
    assert differs(result, model) == {f"{last}.weight"}
    before, after = (net.state_dict()[f"{last}.weight"] for net in (model, result))
    edited = (before != after).flatten(2).any(2) if before.ndim == 4 else before != after
    assert not after[edited].any()
    sums = component_sums(model, {last: layers[last]}, [forget.all()[0]])[last]
    scores = singleton_fidelity(sums, centred=norm == "batch")
    rows = ((s, e) for s, e in zip(scores, edited, strict=True)) if per == "output" else [(scores, edited)]
    for s, e in rows:
        assert e.sum() == round(0.1 * s.numel())
        assert s[e].min() >= s[~e].max()


def test_scores_are_centred_where_there_is_batch_norm():
    forget, _ = few()
    for norm, same in (("batch", "centred"), ("none", "fidelity")):
        model = new_model(norm=norm)
        kinds = ("auto", "centred", "fidelity")
        whole = {kind: apply("modhifi_u", model, forget, None, share=0.1, score=kind) for kind in kinds}
        assert_same_bits(whole["auto"], whole[same])
        assert differs(whole["centred"], whole["fidelity"])


def test_in_a_net_with_layer_norm_slices_are_negated():
    model, (forget, _) = new_model("vit", width=8), few()
    result = apply("modhifi_u", model, forget, None, share=0.2, layers=2)
    changed = differs(result, model)
    assert changed == {f"features.encoder.{block}.mlp.4.weight" for block in (3, 4)}
    for name in changed:
        before, after = (net.state_dict()[name] for net in (model, result))
        assert torch.equal(after.abs(), before.abs())
        assert (before != after).sum() == round(0.2 * before.numel())


def test_the_samples_of_several_clients_give_the_same_edit_in_any_order():
    model, (forget, _) = new_model(norm="batch"), few()
    whole = apply("modhifi_u", model, forget, None, share=0.1, batch_size=64)
    order = np.random.default_rng(0).permutation(len(forget))
    shuffled = type(forget)(forget.x[order], forget.y[order], forget.mean, forget.std)
    assert_same_bits(apply("modhifi_u", model, shuffled, None, share=0.1, batch_size=7), whole)
