"""The contract that every method keeps: it gets what it declared, and nothing else."""

import copy
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.federated.registry import declared
from fedsim.models.base import Classifier
from unlearning.api import registry as methods
from unlearning.api.needs import Needs
from unlearning.api.registry import Method, UnlearningConfig, describe_unlearning, load_unlearning, unlearning
from unlearning.api.view import View
from unlearning.pipeline.apply import options_of, unlearn_with
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.roles import Roles, assign_roles
from unlearning.pipeline.source import Source

NAMES = sorted(declared("unlearning", "unlearning"))
NEEDS = {name: load_unlearning(name).needs for name in NAMES}
BLIND = [name for name, needs in NEEDS.items() if not (needs.forget_labels and needs.retain_labels)]


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> dict[str, Method]:
    monkeypatch.setattr(methods, "_methods", {})
    return methods._methods


def probe(registry: dict[str, Method], needs: Needs, seen: dict[str, Any], forgets: Any = ("class",)) -> Method:
    """Register a method that writes down what it got."""

    @unlearning("probe", UnlearningConfig, needs=needs, forgets=set(forgets))
    def look(
        model: Classifier, forget: View, retain: View | None, config: UnlearningConfig, rng: np.random.Generator
    ) -> Classifier:
        seen.update(forget=forget, retain=retain, draw=(rng.random(), float(torch.rand(()))))
        seen["gradients"] = model(forget.all()[0][:1]).requires_grad
        with torch.no_grad():
            model.classifier.bias += 1
        return model

    return registry["probe"]


def run_probe(method: Method, source: Source, roles: Roles, seed: int = 0) -> Classifier:
    return unlearn_with(method, options_of(method, {}), source.model, roles, seed).model


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


def test_synthetic_only_is_noise_of_the_data_sets_moments(
    registry: dict[str, Method], source: Source, roles: Roles
) -> None:
    seen: dict[str, Any] = {}
    run_probe(probe(registry, Needs(synthetic_only=True), seen), source, roles)
    noise = seen["retain"]
    assert noise.x.shape == roles.retain.x.shape
    assert noise.x.dtype == roles.retain.x.dtype
    assert (noise.x == roles.retain.x).float().mean() < 0.5
    assert abs(float(noise.all()[0].mean())) < 0.2  # standardised; clipping at black moves it a little


def test_draws_have_an_address_and_leave_torchs_generator_alone(
    registry: dict[str, Method], source: Source, roles: Roles
) -> None:
    seen: dict[str, Any] = {}
    method, draws = probe(registry, Needs(), seen), []
    state = torch.get_rng_state()
    for seed in (0, 0, 1):
        run_probe(method, source, roles, seed)
        draws.append(seen["draw"])
    assert draws[0] == draws[1] != draws[2]
    assert torch.equal(torch.get_rng_state(), state)


def test_a_method_must_return_a_classifier(registry: dict[str, Method], source: Source, roles: Roles) -> None:
    method = replace(probe(registry, Needs(), {}), unlearn=lambda *arguments: None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="probe must return a Classifier, got NoneType"):
        run_probe(method, source, roles)


def test_a_registration_is_checked(registry: dict[str, Method]) -> None:
    probe(registry, Needs(), {})
    with pytest.raises(ValueError, match="'probe' is registered twice"):
        probe(registry, Needs(), {})
    registry.clear()
    with pytest.raises(ValueError, match=r"forgets \['people'\]; allowed: class, samples, clients"):
        probe(registry, Needs(), {}, {"people"})
    with pytest.raises(ValueError, match=r"forgets \[\]"):
        probe(registry, Needs(), {}, set())


def test_an_unknown_name_brings_the_nearest() -> None:
    with pytest.raises(FedsimError, match=r"--method finetun: no such unlearning method; did you mean 'finetune'\?"):
        load_unlearning("finetun")


def test_listing_imports_no_method_and_no_torch() -> None:
    code = (
        "import sys; from unlearning.api.registry import describe_unlearning; names = describe_unlearning(); "
        "bad = {'torch', 'unlearning.finetune'} & set(sys.modules); print(len(names), *bad)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(len(NAMES))]


@pytest.mark.parametrize("name", NAMES)
def test_the_list_says_what_the_method_declares(name: str) -> None:
    method, line = load_unlearning(name), describe_unlearning()[name]
    assert f"Needs: {method.needs.words()}." in line
    assert all(kind in line.split("Forgets:")[1] for kind in method.forgets)


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
