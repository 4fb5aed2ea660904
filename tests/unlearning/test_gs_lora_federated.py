"""GS-LoRA in the federation: equal to the central one where one client holds all, exact means, and what leaves."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.randomness import generator
from tests.tiny_runs import Cli
from unlearning.api.federation import Federation
from unlearning.api.needs import Needs
from unlearning.api.registry import load_unlearning
from unlearning.api.view import View
from unlearning.gs_lora import Factors, GsLoraConfig, merge, new_factors, perceptrons, prototypes, train_factors
from unlearning.gs_lora_federated import averaged
from unlearning.pipeline.apply import options_of
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.source import Source, open_source

RUN: dict[str, Any] = {
    "clients": 3, "rounds": 1, "name": "tiny", "data": {"max_per_class": 12},
    "model": {"name": "vit", "width": 8, "depth": 2, "heads": 2, "patch": 4},
    "training": {"vectorize": "never", "epochs": 1},
}  # fmt: skip
OPTIONS = {"rank": 2, "share": 1.0, "batch_size": 500, "epochs": 6, "warmup": 2, "rounds": 3}


def train(out: Path, **overrides: Any) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return open_source(fedsim.run(RUN, overrides={"out": str(out), **overrides}).folder)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return train(tmp_path_factory.mktemp("runs"))


def federation(source: Source, spec: str = "class=3") -> Federation:
    left = source.data.without(parse_forget(spec, source.data, 0).rows)
    return Federation(source.config, source.data, left, source.folder.path, Needs(local=True))


def apply(fed: Federation, **options: Any) -> Tensors:
    method = load_unlearning("gs_lora_federated")
    with fed:
        return method.unlearn(fed, options_of(method, OPTIONS | options))  # type: ignore[call-arg,arg-type,return-value]


def views(source: Source, spec: str = "class=3") -> tuple[View, View]:
    asked, data = parse_forget(spec, source.data, 0), source.data.dataset

    def of(rows: np.ndarray[Any, np.dtype[np.int64]]) -> View:
        x, y = torch.from_numpy(data.x_train[rows]), torch.from_numpy(data.y_train[rows])
        return View(x, y, data.mean, data.std)

    return of(asked.rows), of(asked.retain)


@pytest.mark.parametrize("pull", [0.0, 0.1])
@pytest.mark.parametrize("average", ["b", "both"])
def test_one_client_with_everything_is_the_central_method(tmp_path: Path, average: str, pull: float) -> None:
    """From the same A: batches are whole, so that it is no matter in what order they are drawn."""
    source = train(tmp_path, clients=1)
    fed = federation(source)
    changed = apply(fed, rounds=1, average=average, push=pull, pull=pull)
    model, (forget, retain) = fed.model(fed.final()).requires_grad_(False), views(source)
    factors = new_factors(model, perceptrons(model), 2, fed.local.rng("factors"))
    for a, _ in factors.values():
        a.requires_grad_(average == "both")
    options = GsLoraConfig.model_validate(
        {"name": "gs_lora", **{k: v for k, v in OPTIONS.items() if k != "rounds"}, "push": pull, "pull": pull}
    )
    train_factors(model, factors, perceptrons(model), forget, retain, options, generator(7, "another order"))
    merge(model, factors)
    for name, value in model.state_dict().items():
        assert torch.allclose(changed[name], value, rtol=0, atol=1e-6), name
    layers = {f"{name}.weight" for pair in perceptrons(model).values() for name in pair}
    before = fed.final()
    assert {name for name, value in changed.items() if not torch.equal(value, before[name])} == layers
    assert fed.costs()["averaging_error"] < 1e-6


def test_with_a_common_factor_a_the_mean_of_the_changes_is_the_change_of_the_mean() -> None:
    rng = torch.Generator().manual_seed(0)

    def replies(*parts: str) -> list[Tensors]:
        shapes = {"A": (2, 5), "B": (4, 2)}
        drawn = [{f"l.{part}": torch.randn(shapes[part], generator=rng) for part in parts} for _ in range(3)]
        return [some | {"samples": torch.tensor(float(n))} for n, some in enumerate(drawn, 1)]

    factors: Factors = {"l": (torch.randn(2, 5, generator=rng), torch.zeros(4, 2))}
    some = replies("B")
    (a, b), error = averaged(some, factors)[0]["l"], averaged(some, factors)[1]
    assert torch.equal(a, factors["l"][0])
    assert torch.allclose(b, sum(n * reply["l.B"] for n, reply in enumerate(some, 1)) / 6)  # type: ignore[arg-type]
    assert error < 1e-6
    some = replies("A", "B")
    found, error = averaged(some, factors)
    changes = torch.stack([n / 6 * reply["l.B"] @ reply["l.A"] for n, reply in enumerate(some, 1)])
    a, b = (value.detach() for value in found["l"])
    assert error == pytest.approx(float((changes.sum(0) - b @ a).norm() / changes.sum(0).norm()), rel=1e-5)
    assert error > 0.1


def test_a_client_without_any_of_it_helps_to_retain_and_nothing_else(source: Source) -> None:
    model, (forget, retain) = source.model.requires_grad_(False), views(source)
    nothing = View(forget.x[:0], torch.empty(0, dtype=torch.int64), forget.mean, forget.std)
    centres, blocks = prototypes(model, [retain], 99), perceptrons(model)

    def trained(**options: float) -> Factors:
        factors = new_factors(model, blocks, 2, generator(0, "f"))
        config = GsLoraConfig.model_validate({"name": "gs_lora", "epochs": 2, "share": 1, **options})
        train_factors(model, factors, blocks, nothing, retain, config, generator(0, "b"), centres=centres)
        return factors

    ours, theirs = trained(beta=5.0, push=3.0), trained(beta=0.0, push=0.0)
    assert all(torch.equal(b, theirs[name][1]) for name, (_, b) in ours.items())
    assert any(b.any() for _, b in ours.values())


def test_each_round_has_a_client_that_holds_some_of_it(tmp_path: Path) -> None:
    """Classes 0 to 4 are with the first client and the others with the rest."""
    source = train(tmp_path, clients=5, **{"data.partition": {"name": "shards", "shards_per_client": 2}})
    local = federation(source).local
    assert 0 < len(local.holders) < 5
    for number in range(1, 40):
        cohort = local.cohort(number, 2)
        assert len(set(cohort)) == 2
        assert set(cohort) & set(local.holders)
    assert local.cohort(1, None) == local.clients


def test_a_class_whose_holders_have_nothing_else_is_refused(tmp_path: Path) -> None:
    source = train(tmp_path, clients=10, **{"data.partition": {"name": "shards", "shards_per_client": 1}})
    with pytest.raises(FedsimError, match=r"^--method gs_lora_federated: .* hold no other samples.*; use gs_lora$"):
        apply(federation(source))


def test_a_network_without_blocks_is_refused_by_the_name_that_was_typed(tmp_path: Path) -> None:
    source = train(tmp_path, model={"name": "cnn"})
    with pytest.raises(FedsimError, match=r"^--method gs_lora_federated: the model has no transformer blocks"):
        apply(federation(source))


def test_the_command_counts_what_it_sends_and_shows_it_in_the_ledger(source: Source, cli: Cli) -> None:
    sets = [f"--set={name}={value}" for name, value in OPTIONS.items()]
    run = source.folder.path
    outcome = cli("unlearn", run, "--method=gs_lora_federated", "--forget=class=3", "--name=own", *sets)
    assert outcome.code == 0, outcome.err
    row = next(row for row in read_comparison(run / "unlearned" / "own").rows if row.name == "gs_lora_federated")
    known = {name: metric.mean for name, metric in row.metrics.items()}
    size = sum(4 * 2 * out for out in (16, 8, 16, 8))  # B of two blocks, rank 2, and the number of samples
    assert known["traffic_mb"] == pytest.approx(3 * 3 * (2 * size + 4) / 1e6)
    assert (known["rounds"], known["clients_woken"]) == (3, 9)
    assert known["averaging_error"] < 1e-6
    assert "low-rank factors" in cli("privacy", run / "unlearned" / "own").out


def test_a_run_that_promises_privacy_refuses_it(tmp_path: Path, cli: Cli) -> None:
    source = train(tmp_path, privacy={"example": {"noise_multiplier": 1.0, "delta": 1e-3}})
    refused = cli("unlearn", source.folder.path, "--method=gs_lora_federated", "--forget=class=3")
    assert (refused.code, refused.err.count("\n")) == (2, 1)
    assert "--no-privacy" in refused.err
    meant = cli(
        "unlearn", source.folder.path, "--method=gs_lora_federated", "--forget=class=3", "--no-privacy", "--name=m"
    )
    assert meant.code == 0, meant.err
    assert "infinity" in cli("privacy", source.folder.path / "unlearned" / "m").out
