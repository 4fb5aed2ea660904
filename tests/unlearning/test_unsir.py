"""UNSIR: its two steps, each by itself."""

import numpy as np
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, assert_same_bits, few, new_model
from unlearning.parts.steps import sample
from unlearning.unsir import UnsirConfig, adverse_noise


def test_unsir_without_impairing_is_adam_on_the_used_kept_samples():
    model, (forget, retain) = new_model(), few()
    result = apply("unsir", model, forget, retain, impair_epochs=0, repair_epochs=2, batch_size=16, retain_share=0.5)
    rng = np.random.default_rng(0)
    kept = sample(retain, 0.5, rng.spawn(1)[0])
    assert len(kept) == 38
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(2):
        for x, y in kept.batches(16, rng):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert_same_bits(result, model)


def test_adverse_noise_raises_its_classes_loss_and_is_pulled_to_zero():
    """Far from zero, where the norm outweighs the loss, Adam's first step is -lr * sign(noise)."""
    model = new_model(dtype=torch.float64)
    start = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 1, 1, 4, 4, 4])
    config = UnsirConfig(name="unsir", noise_penalty=0)
    made = adverse_noise(model, start, y, config)
    losses = [F.cross_entropy(model(inputs), y).item() for inputs in (start, made)]
    assert losses[1] > losses[0] + 0.3
    pulled = adverse_noise(model, start, y, UnsirConfig(name="unsir", noise_steps=1, noise_penalty=1e6))
    torch.testing.assert_close(pulled, start - 0.1 * start.sign(), rtol=0, atol=1e-6)
