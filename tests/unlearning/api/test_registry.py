"""The contract that every method keeps: it gets what it declared, and nothing else."""

import subprocess
import sys
from dataclasses import replace
from typing import Any

import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.federated.registry import declared
from tests.unlearning.api.probes import probe, run_probe
from unlearning.api.needs import Needs
from unlearning.api.registry import Method, describe_unlearning, load_unlearning
from unlearning.pipeline.roles import Roles
from unlearning.pipeline.source import Source

NAMES = sorted(declared("unlearning", "unlearning"))


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
