"""`fedsim prune` writes a run folder that every other command takes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

import fedsim
from fedsim.config.resolve import recorded_config, resolve
from fedsim.privacy.ledger import Ledger
from fedsim.runs.frozen import run_data
from tests.tiny_runs import Cli
from unlearning.parts.layer_sums import ask_clients
from unlearning.pipeline.pruning_record import read_pruning
from unlearning.pipeline.runner import unlearn


@pytest.fixture
def pruned(run: Path, cli: Cli, tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    done = cli("prune", run, "--target=flops=0.5", "--samples=200", "--name=small", "--force", "--quiet")
    assert (done.code, done.err) == (0, "")
    return Path(done.out.strip())


def test_a_pruned_run_is_a_run(pruned: Path, run: Path, cli: Cli, tmp_path: Path) -> None:
    record = read_pruning(pruned)
    assert record.after.flops <= 0.5 * record.before.flops
    model = fedsim.load_run_model(pruned)
    assert sum(value.numel() for value in model.parameters()) == record.after.parameters
    summary = json.loads((pruned / "summary.json").read_text())
    assert summary["metrics"]["global/accuracy"] == record.after.accuracy
    *before, last = Ledger.read(pruned).parts
    assert before == list(Ledger.read(run).parts)
    assert [release.what for release in last.releases] == ["pruning by modhifi_p"]
    assert (pruned / "plots" / "channels.png").is_file()
    for command in (["show", pruned], ["privacy", pruned], ["report", pruned], ["personalize", pruned, "--clients=2"]):
        assert cli(*command).code == 0
    page = (pruned / "report.html").read_text()
    assert all(title in page for title in ("Pruning", "FLOPs a sample", "Channels of each layer, before and after"))
    own = fedsim.load_model(pruned / "personal" / "client-2.safetensors").classifier.state_dict()
    assert all(torch.equal(value, own[name]) for name, value in model.state_dict().items())
    forgotten = cli("unlearn", pruned, "--method=finetune", "--forget=client=2", "--set=finetune.epochs=1", "--quiet")
    assert (forgotten.code, forgotten.err) == (0, "")


def test_training_goes_on_from_a_pruned_model(pruned: Path, cli: Cli, tmp_path: Path) -> None:
    config = yaml.safe_load((pruned / "config.yaml").read_text())
    done = cli(
        "run", "--config", pruned, f"--out={tmp_path}", "--name=on", f"--set=start={pruned}", "--set=rounds=1",
        "--set=training.lr=1e-9", "--quiet",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    before, after = (fedsim.load_run_model(path).state_dict() for path in (pruned, tmp_path / "on"))
    assert config["model"]["widths"]
    assert all(torch.allclose(value, after[name], atol=1e-5) for name, value in before.items())


def test_fine_tuning_is_a_run_beside_it(run: Path, cli: Cli) -> None:
    done = cli(
        "prune", run, "--method=l2", "--data=none", "--target=params=0.5", "--name=tuned", "--fine-tune-rounds=1", "-q"
    )
    assert (done.code, done.err) == (0, "")
    assert json.loads((run / "pruned" / "tuned-tuned" / "summary.json").read_text())["rounds_done"] == 1


@pytest.mark.usefixtures("no_pictures")
def test_deletions_bind_what_is_pruned_and_what_goes_on_from_it(run: Path, cli: Cli, tmp_path: Path) -> None:
    outcome = unlearn(run, ["finetune"], "client=1", name="gone", overrides={"finetune.epochs": 1}).folder
    done = cli("prune", outcome, "--method=l2", "--data=train", "--samples=100", "--name=small", "-q")
    assert (done.code, done.err) == (0, "")
    small = outcome / "pruned" / "small"
    config = resolve(recorded_config(small))
    left = run_data(small, config)
    assert not len(left.partition[1])
    assert left.content_hash == run_data(outcome, config).content_hash != run_data(run, config).content_hash
    assert cli("show", small).code == cli("prune", small, "--method=random", "--name=again", "-q").code == 0
    on = ["run", "--config", small, f"--out={tmp_path}", "--name=on", f"--set=start={small}", "--set=rounds=1", "-q"]
    assert cli(*on).code == 0
    assert run_data(tmp_path / "on", config).content_hash == left.content_hash
    assert cli("run", "--resume", tmp_path / "on", "--rounds=2", "-q").code == 0
    done = cli(*on, "--seed=77", "--force")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "has had samples of digits deleted, and another split of it would bring them back" in done.err


def test_a_start_that_has_changed_is_refused(pruned: Path, cli: Cli, tmp_path: Path) -> None:
    options = ["--config", pruned, f"--out={tmp_path}", "--set=rounds=1", "--quiet"]
    assert cli("run", *options, "--name=on", f"--set=start={pruned}").code == 0
    (tmp_path / "other.safetensors").write_bytes(b"not a model")
    assert cli("run", *options, "--name=no", f"--set=start={tmp_path / 'other.safetensors'}").code == 2
    assert cli("run", *options, "--name=no", "--set=start=nowhere").err.startswith("error: start: ")
    config = yaml.safe_load((tmp_path / "on" / "config.yaml").read_text())
    config["start_sha256"] = "0" * 64
    (tmp_path / "on" / "config.yaml").write_text(yaml.safe_dump(config))
    done = cli("run", "--resume", tmp_path / "on")
    assert (done.code, "its hash differs" in done.err) == (2, True)


def test_a_promise_of_privacy_is_kept_or_given_up_explicitly(tmp_path: Path, cli: Cli) -> None:
    options = [f"--out={tmp_path}", "--quiet", "--clients=6", "--rounds=2", "--model=mlp", "--set=model.hidden=[16]"]
    private = [*options, "--set=privacy.client.noise_multiplier=1", "--name=private"]
    assert cli("run", *private).code == 0
    run = tmp_path / "private"
    done = cli("prune", run, "--name=raw", "--quiet")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "the run promises privacy of clients; use --data synthetic, or give --no-privacy" in done.err
    done = cli("prune", run, "--data=synthetic", "--name=noise", "--quiet")
    assert (done.code, done.err) == (0, "")
    assert "inf" not in cli("privacy", run / "pruned" / "noise").out
    assert cli("prune", run, "--no-privacy", "--name=raw", "--quiet").code == 0
    assert "infinite" in cli("privacy", run / "pruned" / "raw").out
    on = [*options, f"--set=start={run}"]
    done = cli("run", *on, "--name=on")
    assert (done.code, done.err.count("\n")) == (2, 1)
    assert "promises privacy of clients, and this run trains without" in done.err
    by_file = cli("run", *options, f"--set=start={run / 'model.safetensors'}", "--name=on")
    assert (by_file.code, "promises privacy of clients" in by_file.err) == (2, True)
    assert not (tmp_path / "on").exists()
    assert cli("run", *on, "--name=on", "--set=privacy.given_up=true").code == 0
    assert len(Ledger.read(tmp_path / "on").parts) == 2
    adapt = ["personalize", run, "--clients=0", "--adapt-steps=1", "--quiet"]
    done = cli(*adapt)
    assert (done.code, "the run promises privacy of clients; leave it out, or give" in done.err) == (2, True)
    assert cli(*adapt, "--no-privacy").code == 0
    assert "infinite" in cli("privacy", run / "personal").out
    assert cli("personalize", run, "--clients=0", "--quiet").code == 0
    assert "infinite" not in cli("privacy", run / "personal").out
    kept = cli("run", *on, "--name=kept", "--set=privacy.client.noise_multiplier=1")
    assert (kept.code, kept.err) == (0, "")
    once, twice = (cli("privacy", tmp_path / name).out for name in ("private", "kept"))
    assert once != twice


@pytest.mark.usefixtures("no_pictures")
def test_who_is_asked(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each client that trains, about its part of the samples; those never trained are not asked."""
    options = [f"--out={tmp_path}", "--name=six", "--clients=6", "--set=clients_unseen=2", "--rounds=1", "--quiet"]
    assert cli("run", *options, "--model=mlp", "--set=model.hidden=[8]", "--set=data.max_per_class=30").code == 0
    asked: dict[int, int] = {}

    def spied(config: Any, data: Any) -> Any:
        asked.update(enumerate(data.partition.sizes.tolist()))
        return ask_clients(config, data)

    monkeypatch.setattr("unlearning.pipeline.prune.ask_clients", spied)
    assert cli("prune", tmp_path / "six", "--samples=60", "--quiet").code == 0
    assert asked[4] == asked[5] == 0
    assert all(asked[client] > 1 for client in range(4))
    assert 58 <= sum(asked.values()) <= 62
