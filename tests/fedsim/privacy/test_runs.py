"""Whole runs: the ledger in the folder, what `fedsim privacy` makes of it, and resuming."""

import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from rich.console import Console

import fedsim
from fedsim.config.resolve import resolve
from fedsim.privacy.accountant import Gaussian, epsilon, gaussian_epsilon, rdp_epsilon
from fedsim.privacy.guarantees import Guarantee, composed, guarantees
from fedsim.privacy.ledger import Ledger, Release, Spent
from fedsim.privacy.show import format_epsilon, render_ledger
from fedsim.runs.simulation import Simulation

TINY = {
    "clients": 6, "rounds": 4, "eval_every": 100, "model": {"name": "mlp", "hidden": [16]},
    "data": {"max_per_class": 12}, "training": {"epochs": 2, "batch_size": 6, "vectorize": "never"},
    "checkpoint_every": 2,
}  # fmt: skip
BOTH = {
    "client": {"noise_multiplier": 2.0, "clipping": "adaptive", "quantile_noise": 3.0, "delta": 1e-3},
    "example": {"noise_multiplier": 1.5},
}


def run(tmp_path: Path, privacy: dict[str, Any], name: str = "run", **changes: Any) -> Path:
    config = {**TINY, "privacy": privacy, "out": str(tmp_path), "name": name}
    return fedsim.run(config, overrides=changes).folder


def book(*releases: Release, rounds: int, took_part: list[int]) -> Ledger:
    return Ledger(releases=releases, rounds=rounds, took_part=took_part)


# Composition ---------------------------------------------------------------------------------------------------------

STEPS = Release(
    what="gradients", covers=("model",), mechanism="gaussian", unit="example", noise=2.0, delta=1e-5,
    sampling_rate=0.25, times=4,
)  # fmt: skip
LABELS = Release(
    what="bag means", covers=("model",), mechanism="laplace", unit="response", adjacency="replaced", noise=0.5,
    when="once",
)  # fmt: skip


def test_the_client_that_took_part_more_often_sets_epsilon_and_gradients_cost_every_round():
    seen = []
    for rounds in (1, 2, 3):
        added, replaced = guarantees(book(STEPS, rounds=2 * rounds, took_part=[rounds, 2 * rounds]))
        assert added.client == replaced.client == 1
        assert added.epsilon == epsilon([Gaussian(2.0, 0.25, 8 * rounds)], 1e-5).epsilon
        assert replaced.epsilon > added.epsilon
        seen.append(added.epsilon)
    assert seen[0] < seen[1] < seen[2]


def test_noise_that_is_drawn_once_costs_once_and_units_are_kept_apart():
    for rounds in (1, 5):
        rows = guarantees(book(LABELS, STEPS, rounds=rounds, took_part=[rounds, 0]))
        assert [(row.unit, row.adjacency) for row in rows] == [
            ("response", "replaced"), ("example", "added or removed"), ("example", "replaced"),
        ]  # fmt: skip
        assert (rows[0].epsilon, rows[0].delta) == (2.0, 0.0)


def test_mechanisms_together_never_cost_less_than_what_is_exact():
    laplace = Spent(mechanism="laplace", noise=2.0, sampling_rate=1.0, count=3)
    gaussian = Spent(mechanism="gaussian", noise=3.0, sampling_rate=1.0, count=2)
    assert composed([laplace], 1e-5)[0] == 1.5
    exact = gaussian_epsilon(math.sqrt(2) / 3, 1e-5)
    assert composed([gaussian], 1e-5)[0] == exact
    assert composed([laplace, gaussian], 1e-5)[0] == 1.5 + exact
    sampled = gaussian.model_copy(update={"sampling_rate": 0.5})
    both = composed([gaussian, sampled], 1e-5)[0]
    assert exact < both <= rdp_epsilon([Gaussian(3.0, 1.0, 2), Gaussian(3.0, 0.5, 2)], 1e-5)
    assert composed([gaussian, gaussian], 1e-5)[0] == pytest.approx(gaussian_epsilon(2 / 3, 1e-5))


def test_no_noise_is_an_infinite_epsilon_and_no_round_costs_nothing():
    silent = STEPS.model_copy(update={"noise": 0.0})
    assert [row.epsilon for row in guarantees(book(silent, rounds=1, took_part=[1]))] == [math.inf] * 2
    assert [row.epsilon for row in guarantees(book(silent, rounds=0, took_part=[0]))] == [0.0] * 2
    assert format_epsilon(math.inf) == "infinity"
    assert format_epsilon(1.0001) == "1.001"  # never rounded down


# Runs ----------------------------------------------------------------------------------------------------------------


def by_key(rows: list[Guarantee]) -> dict[tuple[str, str, str], float]:
    return {(row.unit, row.adjacency, row.against): row.epsilon for row in rows}


@pytest.mark.usefixtures("no_pictures")
def test_the_ledger_of_a_run_is_what_happened_and_survives_a_resume(tmp_path):
    folder = run(tmp_path, BOTH, cohort=3)
    ledger = Ledger.read(folder)
    config = resolve(yaml.safe_load((folder / "config.yaml").read_text()))
    sim = Simulation(config)
    sizes = sim.data.partition.sizes
    assert ledger.rounds == 4
    assert 0 < sum(ledger.took_part) < 24
    worst = max(
        epsilon([Gaussian(1.5, 1 / math.ceil(n / 6), 2 * math.ceil(n / 6) * took)], 1e-5).epsilon
        for n, took in zip(sizes, ledger.took_part, strict=True)
        if took
    )
    found = by_key(guarantees(ledger, with_replaced=False))
    assert found["example", "added or removed", "server"] == worst
    central = epsilon([Gaussian(2.0, 0.5, 4)], 1e-3).epsilon
    assert found["client", "added or removed", "readers"] == central
    half = run(tmp_path, BOTH, "half", cohort=3, rounds=2)
    assert Ledger.read(half).rounds == 2
    raw = yaml.safe_load((half / "config.yaml").read_text())
    (half / "config.yaml").write_text(yaml.safe_dump({**raw, "rounds": 4}))
    fedsim.resume(half)
    assert Ledger.read(half) == ledger


@pytest.mark.usefixtures("no_pictures")
def test_a_target_is_turned_into_noise_that_keeps_to_it(tmp_path):
    targets = {
        "client": {"target_epsilon": 2.0, "delta": 1e-3, "sampling": "fixed"},
        "example": {"target_epsilon": 4.0, "delta": 1e-4},
    }
    folder = run(tmp_path, targets, **{"cohort": 3, "rounds": 2, "training.batch_size": 99})
    resolved = yaml.safe_load((folder / "config.yaml").read_text())["privacy"]
    assert all(resolved[level]["noise_multiplier"] > 0 for level in targets)
    assert all(resolved[level]["target_epsilon"] is None for level in targets)
    rows = by_key(guarantees(Ledger.read(folder)))
    # In cohorts of one size another client takes the place of one that leaves, and noise is found for that.
    assert 1.99 < rows["client", "replaced", "readers"] <= 2.0
    assert 0 < rows["client", "zeroed out", "readers"] < 2.0
    assert rows["example", "added or removed", "server"] == pytest.approx(4.0, rel=1e-6)


@pytest.mark.usefixtures("no_pictures")
def test_the_command_says_what_holds_and_what_does_not(tmp_path, cli):
    outcome = cli("privacy", run(tmp_path, {"client": {"noise_multiplier": 5.0}}))
    assert outcome.code == 0
    exact = format_epsilon(gaussian_epsilon(2 / 5, 1e-5))
    assert "4 rounds, 6 clients" in outcome.out
    assert f"client added or removed {exact} 1e-05 model's readers exact" in " ".join(outcome.out.split())
    for words in (
        "the server is trusted",
        "training metrics",
        "without noise",
        "the run folder",
        "guards no real data",
    ):
        assert words in outcome.out
    silent = cli("privacy", run(tmp_path, {"example": {"noise_multiplier": 0}}, "silent"))
    assert "infinity" in silent.out
    plain = cli("privacy", run(tmp_path, {}, "plain"))
    assert "Nothing is protected" in plain.out
    assert "trained models" in plain.out
    (tmp_path / "plain" / "privacy.json").unlink()
    missing = cli("privacy", tmp_path / "plain")
    assert (missing.code, missing.err.count("\n")) == (2, 1)


def test_what_strategies_protect_themselves_takes_the_update_off_the_open_list():
    console = Console(width=150, record=True, file=io.StringIO())
    update = Release(what="trained models", covers=("model",), note="as they are")
    console.print(render_ledger(book(update, LABELS, rounds=1, took_part=[1])))
    text = console.export_text()
    assert "Not covered, for one response" in text
    assert "trained models" not in text


@pytest.mark.usefixtures("no_pictures")
def test_the_file_is_json_that_others_can_read(tmp_path):
    ledger = json.loads((run(tmp_path, BOTH) / "privacy.json").read_text())
    gradients = next(r for r in ledger["releases"] if r["unit"] == "example")
    assert gradients["mechanism"] == "gaussian"
    assert (gradients["noise"], len(gradients["sampling_rate"])) == (1.5, 6)
    assert np.sum(ledger["took_part"]) == 24
