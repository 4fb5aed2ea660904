"""The search of options: what it looks at, what it finds, and that it says what it cost."""

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.federated.registry import declared
from fedsim.models.base import Classifier
from tests.tiny_runs import Cli
from unlearning.api.registry import UnlearningConfig, load_unlearning
from unlearning.api.view import View
from unlearning.pipeline.roles import Roles
from unlearning.pipeline.source import Source
from unlearning.pipeline.tuning import drawn, ranges, tune


@pytest.mark.parametrize("name", sorted(declared("unlearning", "unlearning")))
def test_draws_lie_in_the_ranges_and_are_valid_options(name: str) -> None:
    config = load_unlearning(name).config
    rng = np.random.default_rng(0)
    for _ in range(20):
        found = drawn(config(name=name), rng).model_dump()
        for option, (low, high) in ranges(config).items():
            assert low * 0.99 <= found[option] <= high * 1.01, option
            assert isinstance(found[option], type(low))


def test_the_best_is_chosen_without_a_look_at_the_reported_samples(source: Source, roles: Roles) -> None:
    """Test and unseen views raise when they are read; the options that change the model least are the nearest."""

    class Untouchable(View):
        def __len__(self) -> int:
            raise AssertionError("a sample of which figures are reported was looked at")

    hidden = Untouchable(torch.empty(0), torch.empty(0))
    blind = replace(roles, test=hidden, unseen=hidden)
    config = load_unlearning("finetune").config

    def apply(options: UnlearningConfig) -> Classifier:
        changed = copy.deepcopy(source.model)
        with torch.no_grad():
            changed.classifier.bias[0] += 1_000 * float(options.model_dump()["lr"])
        return changed

    found = tune(config(name="finetune"), apply, source.model, blind, 0, trials=6)
    assert found.gap <= found.gap_before
    assert found.seconds > 0
    assert set(found.changed) <= set(ranges(config))


def test_from_the_command_line(cli: Cli, run: Path) -> None:
    told = cli("unlearn", run, "--method=neggrad", "--forget=client=2", "--tune=neggrad", "--name=tuned", "--seeds=1")
    assert told.code == 0, told.err
    assert "tuning neggrad: an original and an oracle of seed 1000" in told.out
    assert "12 trials took" in told.out
    wrong = cli("unlearn", run, "--method=neggrad", "--forget=client=2", "--tune=scrub", "--name=wrong")
    assert (wrong.code, wrong.err.count("\n")) == (2, 1)
    assert not (run / "unlearned" / "wrong").exists()
