"""Both halves of an app over a grid of this process: the same model as the simulation's, and a run folder like any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from flwr.app import Message

from fedsim.deploy.client import make_client_app
from fedsim.deploy.server import serve
from fedsim.engine.inprocess import InProcessEngine
from fedsim.errors import RunFailed
from fedsim.flower.apps import AppWorker
from fedsim.privacy.ledger import Ledger
from fedsim.runs.folder import RunFolder
from tests.fedsim.deploy.federations import SMALL, made_app, read, simulated

pytestmark = pytest.mark.usefixtures("no_pictures", "_no_report")


@pytest.fixture
def _no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out plots and report, which take most of the time."""
    monkeypatch.setattr("fedsim.deploy.server.write_plots", lambda folder: [])
    monkeypatch.setattr("fedsim.deploy.server.write_report", lambda folders, out: out)


def grid_of(app: Path, clients: int = 3) -> InProcessEngine:
    """Return a grid whose node k reads the file of client k."""
    package = app / "federation"
    nodes = make_client_app(package, lambda node: read(app.parent / f"node{node['partition-id']}.npz"))
    return InProcessEngine(AppWorker(nodes, clients), clients, 1)


def run_app(app: Path, grid: InProcessEngine, **told: Any) -> Path:
    settings = {"name": "small", "out": str(app / "runs"), "patience-s": 5.0, "reply-timeout-s": 60.0, **told}
    return serve(app / "federation", lambda run: read(app.parent / "test.npz"), grid, settings)


@pytest.mark.parametrize("strategy", [{"name": "fedprox"}, {"name": "fedadam"}])
def test_nodes_come_to_the_model_of_the_simulation(tmp_path: Path, strategy: Mapping[str, Any]) -> None:
    config = {**SMALL, "strategy": strategy, "cohort": 2}
    expected = simulated(tmp_path, config)
    app = made_app(tmp_path, config)
    run = run_app(app, grid_of(app))
    assert (run / "model.safetensors").read_bytes() == (expected.folder / "model.safetensors").read_bytes()
    folder = RunFolder.open(run)
    assert (folder.status, folder.rounds_done) == ("finished", 2)
    assert folder.final_metrics["global/accuracy"] == expected.final["global/accuracy"]
    assert folder.label_counts is None  # the server does not know
    assert Ledger.read(run).took_part == Ledger.read(expected.folder).took_part
    assert run_app(app, grid_of(app)) == run  # nothing is left to do


class Losing(InProcessEngine):
    """A grid that never hears of client 1 again after some messages."""

    lost_after = 5

    def pull_messages(self, message_ids: Any) -> list[Message]:
        found = super().pull_messages(message_ids)
        self.lost_after -= len(found)
        return [reply for reply in found if self.lost_after > 0 or reply.metadata.src_node_id != 3]


def test_a_node_that_is_gone_costs_its_own_reply(tmp_path: Path) -> None:
    app = made_app(tmp_path, SMALL)
    package = app / "federation"
    nodes = make_client_app(package, lambda node: read(tmp_path / f"node{node['partition-id']}.npz"))
    run = run_app(app, Losing(AppWorker(nodes, 3), 3, 1), **{"reply-timeout-s": 1.0})
    failures = [row.metrics.get("train/failures", 0.0) for row in RunFolder.open(run).metrics]
    assert sum(filter(None, failures)) >= 1.0
    assert "no reply within 1 s" in (run / "metrics.jsonl").read_text()


def test_clipping_and_noise_are_there(tmp_path: Path) -> None:
    private = {"noise": "secure", "client": {"noise_multiplier": 1.0, "clip_norm": 0.01, "sampling": "fixed"}}
    app = made_app(tmp_path, {**SMALL, "privacy": private})
    run = run_app(app, grid_of(app))
    metrics = RunFolder.open(run).final_metrics
    assert metrics["global/accuracy"] < 0.5  # steps of a hundredth, under as much noise
    assert Ledger.read(run).rounds == 2


def test_it_is_told_who_is_missing(tmp_path: Path) -> None:
    app = made_app(tmp_path, SMALL)
    with pytest.raises(RunFailed, match="2 of 3 SuperNodes are connected"):
        run_app(app, grid_of(app, clients=2), **{"patience-s": 0.0})
    (tmp_path / "node1.npz").unlink()
    with pytest.raises(RunFailed, match="a SuperNode cannot take part"):
        run_app(app, grid_of(app))
