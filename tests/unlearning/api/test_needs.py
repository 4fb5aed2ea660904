"""A method gets what it declared, and nothing else."""

import copy
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.federated.registry import declared
from tests.unlearning.api.probes import probe, run_probe
from unlearning.api.needs import Needs
from unlearning.api.registry import Method, load_unlearning
from unlearning.api.view import View
from unlearning.pipeline.apply import options_of, unlearn_with
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.roles import Roles, assign_roles
from unlearning.pipeline.source import Source

NAMES = sorted(declared("unlearning", "unlearning"))

NEEDS = {name: load_unlearning(name).needs for name in NAMES}

BLIND = [name for name, needs in NEEDS.items() if not (needs.forget_labels and needs.retain_labels)]


def test_everything_that_is_needed_is_there(registry: dict[str, Method], source: Source, roles: Roles) -> None:
    seen: dict[str, Any] = {}
    before = copy.deepcopy(source.model.state_dict())
    model = run_probe(probe(registry, Needs(), seen), source, roles)
    assert seen["forget"].y is roles.forget.y
    assert seen["retain"].y is roles.retain.y
    assert seen["forget"].unseen is None  # unless it is asked for
    assert seen["gradients"]
    assert torch.equal(model.classifier.bias, before["classifier.bias"] + 1)
    assert all(torch.equal(value, before[name]) for name, value in source.model.state_dict().items())  # a copy


def test_nothing_else_is_there(registry: dict[str, Method], source: Source, roles: Roles) -> None:
    seen: dict[str, Any] = {}
    needs = Needs(forget_labels=False, retain_labels=False, gradients=False)
    run_probe(probe(registry, needs, seen), source, roles)
    assert seen["forget"].y is None
    assert seen["retain"].y is None
    assert not seen["gradients"]


def test_without_need_there_is_no_retain_view(registry: dict[str, Method], source: Source, roles: Roles) -> None:
    seen: dict[str, Any] = {}
    run_probe(probe(registry, Needs(retain=False), seen), source, roles)
    assert seen["retain"] is None


@pytest.mark.parametrize("name", BLIND)
def test_labels_that_are_not_needed_are_not_read(name: str, source: Source, roles: Roles) -> None:
    """Poisoned labels, where a method declares that it needs none, change no bit of what it does."""
    method = load_unlearning(name)
    request = parse_forget("class=3" if "clients" not in method.forgets else "client=2", source.data, seed=0)
    roles = assign_roles(source.data, request, 0, source.device)
    small = replace(roles, retain=replace(roles.retain, x=roles.retain.x[:200], y=roles.retain.y[:200]))  # type: ignore[index]

    def poisoned(view: View, poison: bool) -> View:
        return replace(view, y=torch.full_like(view.y, -(10**6))) if poison and view.y is not None else view

    if name == "ct" or method.needs.attribution or method.needs.oracle:  # needs convolutions, or what others work out
        pytest.skip("tests/unlearning has its own")
    results = []
    for poison in (False, True):
        given = replace(
            small,
            forget=poisoned(small.forget, poison and not method.needs.forget_labels),
            retain=poisoned(small.retain, poison and not method.needs.retain_labels),
        )
        results.append(unlearn_with(method, options_of(method, {}), source.model, given, 0).model.state_dict())
    assert all(torch.equal(value, results[1][key]) for key, value in results[0].items())
