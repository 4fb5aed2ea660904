import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

import fedsim
import fedsim.runs.simulation
from fedsim.config.resolve import resolve
from fedsim.config.run import FaultsConfig
from fedsim.faults import fault_of
from fedsim.flower.records import to_tensors
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.simulation import Simulation
from fedsim.sealed import sha256
from tests.tiny_runs import TINY, Cli

FAULTY = {**TINY, "clients": 8, "rounds": 4, "faults": {"dropout": 0.2, "error": 0.15, "nan": 0.15}}
REASONS = {
    "dropout": "injected dropout",
    "error": "injected error",
    "nan": "its update holds NaN or Inf",
}


def faults_of(config: dict[str, Any], server_round: int) -> dict[int, str]:
    """Return {client: fault} of the round, all clients being in its cohort."""
    drawn = {
        c: fault_of(FaultsConfig(**config["faults"]), config.get("seed", 0), server_round, c)
        for c in range(config["clients"])
    }
    return {client: fault for client, fault in drawn.items() if fault}


# The draw ------------------------------------------------------------------------------------------------------------


def test_shares_are_kept_and_an_address_repeats() -> None:
    config = FaultsConfig(dropout=0.3, error=0.2, nan=0.1)
    drawn = [fault_of(config, 0, r, c) for r in range(50) for c in range(100)]
    assert drawn == [fault_of(config, 0, r, c) for r in range(50) for c in range(100)]
    for fault, share in {"dropout": 0.3, "error": 0.2, "nan": 0.1, None: 0.4}.items():
        # Four standard errors of a share of 5,000 draws.
        assert abs(drawn.count(fault) / 5000 - share) < 4 * np.sqrt(share * (1 - share) / 5000)
    assert drawn[:100] != drawn[100:200]
    assert drawn[:100] != [fault_of(config, 1, 0, c) for c in range(100)]


def test_all_and_none() -> None:
    assert {fault_of(FaultsConfig(), 0, 1, c) for c in range(100)} == {None}
    assert {fault_of(FaultsConfig(dropout=1), 0, 1, c) for c in range(100)} == {"dropout"}
    assert {fault_of(FaultsConfig(error=0.5, nan=0.5), 0, 1, c) for c in range(100)} == {"error", "nan"}


# A run that goes on --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def faulty_runs(tmp_path_factory: pytest.TempPathFactory) -> list[fedsim.RunResult]:
    """Two runs of FAULTY."""
    folder = str(tmp_path_factory.mktemp("faulty"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return [fedsim.run(FAULTY, overrides={"out": folder, "name": name}) for name in ("first", "second")]


def test_a_failure_costs_one_reply_and_is_recorded_with_its_reason(faulty_runs: list[fedsim.RunResult]) -> None:
    run = faulty_runs[0]
    expected = [faults_of(FAULTY, row["round"]) for row in run.metrics]
    assert {fault for drawn in expected for fault in drawn.values()} == set(REASONS)  # or it would be no test
    for row, faults in zip(run.metrics, expected, strict=True):
        assert row["metrics"]["train/failures"] == len(faults)
        recorded = {client: reason for reason, clients in row["failures"].items() for client in clients}
        assert recorded == {client: REASONS[fault] for client, fault in faults.items()}
    summary = json.loads((run.folder / "summary.json").read_text())
    assert summary["status"] == "finished"
    assert summary["failures"] == sum(map(len, expected))
    assert all(value.isfinite().all() for value in run.model.state_dict().values())


def test_a_faulty_run_repeats(faulty_runs: list[fedsim.RunResult]) -> None:
    first, second = faulty_runs
    assert sha256(first.folder / "model.safetensors") == sha256(second.folder / "model.safetensors")

    def measured(run: fedsim.RunResult) -> list[dict[str, Any]]:
        clock = "train/clients_per_s"
        return [
            {**row, "time_s": 0, "metrics": {n: v for n, v in row["metrics"].items() if n != clock}}
            for row in run.metrics
        ]

    assert measured(first) == measured(second)


@pytest.mark.parametrize("strategy", ["fedavg", "fedmedian", "ditto"])
@pytest.mark.parametrize("fault", ["dropout", "error", "nan"])
def test_the_aggregate_is_that_of_the_others(fault: str, strategy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bit for bit: the mean or median of whoever did not fail, and the state of whoever failed as it was."""
    config = {**TINY, "clients": 8, "strategy": strategy, "faults": {fault: 0.4}, "training.chunk": 8}
    failed = faults_of(config, 1)
    assert 0 < len(failed) < 8

    def one_round(**changes: Any) -> tuple[dict[str, torch.Tensor], list[int]]:
        simulation = Simulation(resolve(config, changes))
        state, engine = simulation.begin(), simulation.engine()
        simulation.step(state, engine)
        return state.tensors, engine.states.committed()

    tensors, kept = one_round()
    sample = fedsim.runs.simulation.draw_cohort
    monkeypatch.setattr(
        fedsim.runs.simulation, "draw_cohort", lambda *a: [client for client in sample(*a) if client not in failed]
    )
    others, others_kept = one_round(**{f"faults.{fault}": 0.0})
    assert tensors.keys() == others.keys()
    assert all(torch.equal(tensors[name], others[name]) for name in tensors)
    assert kept == others_kept == ([c for c in range(8) if c not in failed] if strategy == "ditto" else [])


def test_trained_at_once_one_bad_client_spoils_no_other() -> None:
    """As above to rounding: the batched products of fewer clients may sum in another order."""
    config = {**TINY, "clients": 8, "faults": {"nan": 0.4}, "training.chunk": 8}
    tensors = {}
    for mode in ("never", "always"):
        simulation = Simulation(resolve(config, {"training.vectorize": mode}))
        state = simulation.begin()
        simulation.step(state, simulation.engine())
        assert state.failures == len(faults_of(config, 1)) > 0
        tensors[mode] = state.tensors
    for name, value in tensors["never"].items():
        torch.testing.assert_close(tensors["always"][name], value, rtol=1e-4, atol=1e-5)


# A run that stops ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_with_too_few_replies_the_run_stops_and_can_go_on(tmp_path: Path, cli: Cli) -> None:
    """Seed 3: nobody fails too often in the first rounds, then too many do."""
    config = {**TINY, "clients": 8, "rounds": 8, "faults": {"dropout": 0.25}, "checkpoint_every": 100, "min_replies": 6}
    config["seed"] = next(s for s in range(100) if _first_stop({**config, "seed": s}) == 3)
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    outcome = cli("run", "--config", tmp_path / "config.yaml", "--out", tmp_path)
    folder = tmp_path / "tiny"
    good = 8 - len(faults_of(config, 3))
    assert outcome.code == 1
    assert outcome.err == (
        f"error: round 3: {good} good replies of 8, but min_replies is 6; the first failure: injected dropout; "
        f"{folder} keeps the 2 rounds before\n"
    )
    summary = json.loads((folder / "summary.json").read_text())
    assert (summary["status"], summary["rounds_done"], summary["model_sha256"]) == ("stopped", 2, None)
    assert summary["reason"].startswith(f"round 3: {good} good replies of 8")
    checkpoint = load_latest(folder)
    assert checkpoint is not None
    assert checkpoint.round == 2

    lowered = yaml.safe_load((folder / "config.yaml").read_text()) | {"min_replies": 1}
    (folder / "config.yaml").write_text(yaml.safe_dump(lowered))
    assert cli("run", "--resume", folder, "--quiet").code == 0
    undisturbed = fedsim.run(config, overrides={"min_replies": 1, "out": str(tmp_path), "name": "undisturbed"})
    assert sha256(folder / "model.safetensors") == sha256(undisturbed.folder / "model.safetensors")


def _first_stop(config: dict[str, Any]) -> int:
    return next((r for r in range(1, 9) if 8 - len(faults_of(config, r)) < config["min_replies"]), 0)


@pytest.mark.usefixtures("no_pictures")
def test_when_nobody_answers_in_the_first_round(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**TINY, "faults": {"nan": 1.0}}))
    outcome = cli("run", "--config", tmp_path / "config.yaml", "--out", tmp_path, "--quiet")
    assert (outcome.code, outcome.out) == (1, "")
    assert outcome.err.startswith("error: round 1: 0 good replies of 6, but min_replies is 1; the first failure: its ")
    assert len(outcome.err.splitlines()) == 1
    assert json.loads((tmp_path / "tiny" / "summary.json").read_text())["rounds_done"] == 0
    assert load_latest(tmp_path / "tiny") is None


def test_an_update_is_finite_only_if_every_number_in_it_is() -> None:
    """One infinite entry among all of a client's numbers excludes it, whatever finite ones surround it."""
    config = resolve({**TINY, "clients": 4, "training.chunk": 4, "strategy": "fedmedian"})
    for bad in (torch.inf, -torch.inf, torch.nan):
        simulation = Simulation(config)
        engine, state = simulation.engine(), simulation.begin()
        train = simulation.worker.trainer.train

        def spoiled(*args: Any, train: Any = train, bad: float = bad) -> Any:
            trained = train(*args)
            if args[2][0].client == 2:
                next(iter(trained.state.params.values()))[0].view(-1)[3] = bad
            return trained

        simulation.worker.trainer.train = spoiled  # type: ignore[method-assign]
        seen: list[int] = []
        aggregate = simulation.server.aggregate_train

        def spy(server_round: int, replies: Any, aggregate: Any = aggregate, seen: list[int] = seen) -> Any:
            kept = list(replies)
            seen += [len(to_tensors(reply.content.array_records["arrays"])) for reply in kept if not reply.has_error()]
            return aggregate(server_round, kept)

        simulation.server.aggregate_train = spy  # type: ignore[method-assign]
        simulation.step(state, engine)
        assert len(seen) == 3
        assert state.metrics[0]["failures"] == {"its update holds NaN or Inf": [2]}
