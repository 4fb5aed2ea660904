"""LAF+R: the repair after LAF."""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, new_model

SHORT = {"epochs": 2, "min_steps": 0, "vae_epochs": 2, "batch_size": 16}


def test_the_repair_changes_the_classifier_alone_and_takes_as_many_steps_as_laf():
    model, (forget, retain) = new_model(norm="batch"), few()
    plain = apply("laf", model, forget, retain, **SHORT)
    repaired = apply("laf_r", model, forget, retain, repair_epochs=1, **SHORT)
    assert differs(repaired, plain) == {"classifier.weight", "classifier.bias"}
    assert_same_bits(apply("laf_r", model, forget, retain, repair_epochs=0, **SHORT), plain)
    only = apply("laf_r", model, forget, retain, repair_epochs=1, **(SHORT | {"epochs": 0}))
    twin = copy.deepcopy(model).eval()
    optimizer = torch.optim.Adam(twin.classifier.parameters(), 1e-3)
    batches = list(retain.batches(16, np.random.default_rng(0)))[:3]  # 40 forgotten samples are three batches
    for x, y in batches:
        optimizer.zero_grad()
        F.cross_entropy(twin(x), y).backward()
        optimizer.step()
    assert_same_bits(only, twin)
