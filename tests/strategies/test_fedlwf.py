"""FedLwF without distillation is fine-tuning."""

from tests.strategies.small_runs import assert_same_bits, finished
from tests.strategies.staged_runs import STAGED


def test_no_distillation_is_fine_tuning_bit_for_bit():
    runs = [
        finished("target", {**STAGED, "strategy.distillation": 0}),
        finished("fedlwf", {**STAGED, "strategy.penalty": 0}),
        finished("fedewc", {**STAGED, "strategy.penalty": 0}),
    ]
    for run in runs[1:]:
        assert_same_bits(run.tensors, runs[0].tensors)
