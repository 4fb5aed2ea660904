"""Pruning methods are found by name, described without an import, and registered once."""

import pytest

import unlearning.api.pruner as pruners
from fedsim.errors import FedsimError
from unlearning.api.pruner import PrunerConfig, describe_pruners, load_pruner, pruner


def test_every_method_loads_and_has_a_summary() -> None:
    described = describe_pruners()
    assert {"l1", "l2", "random", "modhifi_p"} <= set(described)
    for name, summary in described.items():
        found = load_pruner(name)
        assert (found.name, found.config(name=name).name) == (name, name)
        assert summary
    assert load_pruner("modhifi_p").samples
    assert not load_pruner("l1").samples


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(FedsimError, match=r"^--method modhifi: no such pruning method; did you mean 'modhifi_p'"):
        load_pruner("modhifi")


def test_a_name_can_be_taken_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pruners, "_pruners", {})
    pruner("mine", PrunerConfig, samples=False)(lambda task, config, rng: {})
    with pytest.raises(ValueError, match="pruning method 'mine' is registered twice"):
        pruner("mine", PrunerConfig, samples=False)(lambda task, config, rng: {})
