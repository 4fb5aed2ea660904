"""The history that a run keeps of its rounds: it is correct, and keeping it does not change the run."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st

import fedsim
from fedsim.errors import FedsimError, RunFailed
from fedsim.federated.sampling import sample_cohort
from fedsim.runs.checkpoint import load_model
from fedsim.runs.history import open_history
from tests.tiny_runs import TINY, TINY_FLAGS, Cli

pytestmark = pytest.mark.usefixtures("no_pictures")
KEPT = {"history.keep": "updates"}


def run(out: Path, **overrides: Any) -> Path:
    return fedsim.run(TINY, overrides={"out": str(out), **KEPT, **overrides}).folder


def history_files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder / "history")) for path in (folder / "history").rglob("*.safetensors"))


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the run of TINY with all updates kept; nobody writes to it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return run(tmp_path_factory.mktemp("kept"))


@pytest.mark.parametrize(
    "options",
    [
        {"training.vectorize": "always"},
        {"model": {"name": "mlp", "norm": "batch"}, "faults": {"nan": 0.2, "dropout": 0.2}},
        {"strategy": "fedtrimmedavg", "cohort": 4},
        {"strategy": "ditto", "history.every": 2},
    ],
)
def test_asking_for_it_changes_no_bit(tmp_path: Path, options: dict[str, Any]) -> None:
    folders = [run(tmp_path, **options), run(tmp_path, **options, name="plain", **{"history.keep": "none"})]
    one, two = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert one == two
    assert not (folders[1] / "history").exists()


def test_it_holds_what_was_sent_each_way(kept: Path) -> None:
    """The mean of what clients sent in a round, by hand, is the model that the next one was sent."""
    rounds = open_history(kept, 3)
    models = [kept_round.model()[0] for kept_round in rounds] + [load_model(kept / "model.safetensors")]
    for kept_round, before, after in zip(rounds, models, models[1:], strict=False):
        assert sorted(kept_round.clients) == list(range(6))
        sent = {client: kept_round.sent(client) for client in kept_round.clients}
        total = sum(update.metrics["weight"] for update in sent.values())
        for name, value in after.items():
            mean = sum(u.tensors[name].double() * u.metrics["weight"] / total for u in sent.values())
            assert torch.allclose(mean.float(), value, atol=1e-6)
        for client, share in kept_round.clients.items():
            moved = torch.cat([(sent[client].tensors[name] - before[name]).flatten() for name in before])
            assert share.norm == pytest.approx(float(moved.norm()), rel=1e-5)
            assert share.weight == sent[client].metrics["weight"]


def test_clients_that_failed_are_not_in_it(tmp_path: Path) -> None:
    folder = run(tmp_path, **{"faults.error": 0.3, "faults.nan": 0.2})
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for kept_round, line in zip(open_history(folder, 3), lines, strict=True):
        lost = {client for clients in line.get("failures", {}).values() for client in clients}
        assert set(kept_round.clients) == set(range(6)) - lost
    assert any("failures" in line for line in lines)


def test_some_rounds_or_norms_only(tmp_path: Path) -> None:
    folder = run(tmp_path, **{"history.every": 2})
    assert [kept_round.is_kept for kept_round in open_history(folder, 3)] == [True, False, True]
    assert {name.split("/")[0] for name in history_files(folder)} == {"round-00000001", "round-00000003"}
    assert sorted(open_history(folder, 3)[1].clients) == list(range(6))
    norms = open_history(run(tmp_path, name="norms", **{"history.keep": "norms"}), 3)
    assert history_files(tmp_path / "norms") == [f"round-0000000{number}/model.safetensors" for number in (1, 2, 3)]
    shares = open_history(folder, 3)[2].clients
    assert {k: s.norm for k, s in norms[2].clients.items()} == {k: s.norm for k, s in shares.items()}


def test_a_quota_that_cannot_do_is_refused_before_anything_is_written(cli: Cli, tmp_path: Path) -> None:
    flags = ["--set=history.keep=updates", "--set=history.quota_mb=1", f"--out={tmp_path / 'runs'}"]
    told = cli("run", *TINY_FLAGS, "--set=model.hidden=[512]", "--rounds=30", *flags)
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert "history.quota_mb: 30 rounds of 6 clients take" in told.err
    assert not (tmp_path / "runs").exists()


def test_a_run_stops_at_its_quota_and_goes_on_with_a_larger_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a method sends more than the model, which nobody knows before."""
    monkeypatch.setattr("fedsim.runs.runner.require_room", lambda *arguments: None)
    with pytest.raises(RunFailed, match=r"round 2: the history would grow beyond history.quota_mb \(1\); raise it"):
        run(tmp_path, **{"model.hidden": [320], "history.quota_mb": 1})
    folder = tmp_path / "tiny"
    assert {name.split("/")[0] for name in history_files(folder)} == {"round-00000001"}
    config = yaml.safe_load((folder / "config.yaml").read_text())
    config["history"]["quota_mb"] = 9
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    fedsim.resume(folder)
    whole = run(tmp_path, name="whole", **{"model.hidden": [320]})
    for name in ["model.safetensors", *(f"history/{name}" for name in history_files(whole))]:
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


def test_what_is_not_as_it_was_is_refused(tmp_path: Path) -> None:
    folder = run(tmp_path)
    file = folder / "history/round-00000002/client-1.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(FedsimError, match=r"client-1.safetensors: is not what the run kept"):
        open_history(folder, 3)[1].sent(1)
    (folder / "history/round-00000002/round.json").write_text("{}")
    with pytest.raises(FedsimError, match=r"round.json: cannot be read"):
        open_history(folder, 3)


def test_show_tells_its_size(cli: Cli, kept: Path) -> None:
    shown = " ".join(cli("show", kept).out.split())
    assert "history (updates, 0." in shown


@given(st.integers(0, 99), st.lists(st.integers(0, 3), min_size=2, max_size=12), st.integers(1, 12), st.data())
def test_without_a_client_rounds_that_it_was_not_in_stay_the_same(
    seed: int, sizes: list[int], cohort: int, data: st.DataObject
) -> None:
    everybody = np.array(sizes)
    leaving = data.draw(st.integers(0, len(sizes) - 1))
    left = np.where(np.arange(len(sizes)) == leaving, 0, everybody)
    before, after = (sample_cohort(np.random.default_rng(seed), each, cohort) for each in (everybody, left))
    assert len(before) == min(cohort, np.count_nonzero(everybody))
    assert leaving not in after
    assert set(before) - {leaving} <= set(after)
    if leaving not in before:
        assert before == after
