"""The loss of a sample with several labels, and that classes keep theirs."""

import torch
import torch.nn.functional as F

from fedsim.models.objective import has_several_labels, label_losses, mean_loss, sample_losses

DRAWS = torch.Generator().manual_seed(0)
LOGITS = 5 * torch.randn(7, 3, generator=DRAWS)
LABELS = torch.randint(0, 2, (7, 3), generator=DRAWS, dtype=torch.uint8)
CLASSES = torch.randint(0, 3, (7,), generator=DRAWS)


def test_labels_are_independent_coins() -> None:
    coins = torch.distributions.Bernoulli(logits=LOGITS)
    expected = -coins.log_prob(LABELS.float()).mean(1)
    torch.testing.assert_close(label_losses(LOGITS, LABELS), expected)
    torch.testing.assert_close(sample_losses(LOGITS, LABELS), expected)
    torch.testing.assert_close(mean_loss(LOGITS, LABELS), expected.mean())


def test_classes_have_their_cross_entropy_to_the_bit() -> None:
    assert torch.equal(mean_loss(LOGITS, CLASSES), F.cross_entropy(LOGITS, CLASSES))
    assert torch.equal(sample_losses(LOGITS, CLASSES), F.cross_entropy(LOGITS, CLASSES, reduction="none"))


def test_what_targets_are_is_told_by_their_shape_and_type() -> None:
    assert has_several_labels(LABELS)
    assert not has_several_labels(CLASSES)
    assert not has_several_labels(torch.randn(7, 3))  # numbers
