"""Fine-tuning, and the methods that are fine-tuning without their own part."""

from dataclasses import replace

import pytest
import torch

from tests.unlearning.digits_views import HARD, apply, assert_same_bits, few, new_model


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("neggrad_plus", {"alpha": 1}),
        ("scrub", {"gamma": 1, "alpha": 0, "max_epochs": 0}),
        ("l1_sparse", {"alpha": 0}),
        ("cf_k", {"blocks": 99}),
        ("not", {"layers": 0}),
        ("msg", {"share": 0, "damping": 1}),
    ],
)
def test_without_its_own_part_a_method_is_fine_tuning_to_the_last_bit(method, options, norm):
    model, views = new_model(norm=norm), few()
    assert_same_bits(apply(method, model, *views, **HARD, **options), apply("finetune", model, *views, **HARD))


def test_a_last_batch_of_one_sample_does_not_stop_batch_norm():
    model, (forget, retain) = new_model("mlp", "batch"), few(9, 38)
    result = apply("finetune", model, forget, replace(retain), epochs=1, batch_size=37)
    assert torch.equal(result.features[2].num_batches_tracked, torch.tensor(1))
