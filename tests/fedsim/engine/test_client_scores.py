"""Scores of clients' own models."""

import numpy as np
import torch

from fedsim.engine.client_scores import score


def test_ownership_is_by_training_samples():
    logits, labels = torch.tensor([[0.0, 5.0, 1.0], [0.0, 5.0, 1.0]]), torch.tensor([2, 1])
    assert score(logits, labels, np.array([4, 0, 1]), masked=True)["accuracy"] == 0.5
    assert score(logits, labels, np.array([4, 1, 1]), masked=True)["accuracy"] == 0.5
    assert score(logits, torch.tensor([2, 2]), np.array([4, 0, 1]), masked=True)["accuracy"] == 1.0
