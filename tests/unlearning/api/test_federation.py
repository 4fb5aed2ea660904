"""Forgetting a client with the federation: the interface, and identities that hold exactly."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import FedsimError
from fedsim.runs.history import norm
from tests.tiny_runs import Cli
from tests.unlearning.federations import apply, federation, largest_gap, train
from unlearning.api.needs import Needs
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.source import Source


def test_clients_that_send_differences(tmp_path: Path) -> None:
    """FedNova's send normalised gradients: history, FedEraser and FedAccum read them as such."""
    source = train(tmp_path, strategy="fednova", **{"training.epochs": 2})
    for method, options in (("fedaccum", {}), ("federaser", {"calibration": 1.0})):
        assert largest_gap(apply(method, federation(source), **options), source.model.state_dict()) <= 1e-6
    fed = federation(source, 1)
    first = fed.rounds[0]
    client, theta = first.staying[0], first.model()
    moved = fed.update(first.sent(client), theta)
    sent = dict(fed.train(theta, 1, [client]))[client]
    assert first.clients[client].norm == pytest.approx(norm(moved), rel=1e-6)
    assert norm(moved) > 2 * norm({name: sent.tensors[name] for name in theta})  # of more than two steps
    with pytest.raises(FedsimError, match="needs clients that send models"):
        apply("fedaccum", fed, renormalize=False)
    assert largest_gap(apply("federaser", federation(source, 1)), source.model.state_dict()) < 1


def test_a_method_gets_what_it_declared(kept: Source) -> None:
    nothing, models = federation(kept, 1, needs=Needs()), federation(kept, 1, needs=Needs(history=True))
    with pytest.raises(TypeError, match=r"Needs\(history=True\)"):
        _ = nothing.rounds
    with pytest.raises(TypeError, match=r"Needs\(updates=True\)"):
        models.rounds[0].sent(models.rounds[0].staying[0])
    with pytest.raises(TypeError, match=r"Needs\(clients=True\)"):
        list(models.train(models.rounds[0].model(), 1, [0]))
    with pytest.raises(TypeError, match=r"Needs\(clients=True\)"):
        models.replay(models.rounds[0])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--method fedaccum --forget random=0.9", "every client has samples to forget, so every stored update"),
        ("--method federaser --forget client=1 --set calibration=2", "federaser.calibration: must be at most 1, got 2"),
    ],
)
def test_requests_that_cannot_be_served(cli: Cli, kept: Source, arguments: str, line: str) -> None:
    told = cli("unlearn", kept.folder.path, *arguments.split())
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert line in told.err
    assert not (kept.folder.path / "unlearned").exists()


@pytest.mark.parametrize(
    ("history", "method", "line"),
    [
        ({"keep": "none"}, "retrain_checkpoint", "needs the models of all rounds, which are not kept here"),
        ({"keep": "norms"}, "federaser", "needs what clients sent, which is not kept here"),
        ({"keep": "updates", "every": 2}, "fedaccum", "adds up every round, and not all were kept"),
    ],
)
def test_runs_that_have_not_kept_enough(
    cli: Cli, tmp_path: Path, history: dict[str, Any], method: str, line: str
) -> None:
    source = train(tmp_path, history=history)
    told = cli("unlearn", source.folder.path, "--forget", "client=1", "--method", *method.split())
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert line in told.err
    assert not (source.folder.path / "unlearned").exists()


def test_from_the_command_line_with_a_purge(cli: Cli, kept: Source, tmp_path: Path) -> None:
    run = shutil.copytree(kept.folder.path, tmp_path / "run")
    told = cli(
        "unlearn", run, "--method", "federaser,retrain_checkpoint", "--forget", "client=1", "--compare", "retrain",
        "--seeds", "2", "--purge",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "deleted: " in told.out
    assert "Clients woken" in told.out
    comparison = read_comparison(run / "unlearned" / "federaser-retrain-checkpoint-client-1")
    exact = comparison.best
    assert (exact.name, exact.mean("average_gap"), exact.metrics["average_gap"].seeds) == ("retrain_checkpoint", 0, 2)
    assert exact.mean("rounds") <= 4
    assert exact.mean("history_mb") > 0
    stored = [str(path) for path in run.rglob("client-*.safetensors")]
    assert any(str(run / "history") in path for path in stored)  # of the replay
    assert not any("client-1." in path for path in stored)
    assert not list((run / "unlearned" / "originals").glob("*"))  # of the second seed
    assert not list((run / "unlearned" / "oracles").glob("*/history"))
