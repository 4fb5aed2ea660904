"""The part of an app that runs on the side of the SuperLink; it writes a normal run folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from flwr.app import Context
from flwr.serverapp import Grid, ServerApp
from rich.console import Console

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.deploy.nodes import NodesEngine, meet
from fedsim.deploy.samples import Arrays, Samples
from fedsim.deploy.settings import SAMPLES, read_config
from fedsim.engine.base import Engine
from fedsim.report.html import write_report
from fedsim.report.plots import write_plots
from fedsim.runs.folder import RunFolder
from fedsim.runs.progress import Progress, ProgressLines
from fedsim.runs.runner import begin_or_resume
from fedsim.runs.simulation import Simulation

LoadTest = Callable[[Mapping[str, Any]], Arrays]
"""From the run configuration that Flower passes to the server's test set."""


class Deployment(Simulation):
    """The round loop over real nodes. The server only knows the number of samples of each node."""

    def __init__(
        self, config: RunConfig, progress: Progress, data: FederatedData, make_engine: Callable[[], Engine]
    ) -> None:
        super().__init__(config, progress, data)
        self._make_engine = make_engine
        self.choices["engine"] = f"{config.clients} Flower SuperNodes"

    def engine(self) -> Engine:
        """Return the engine that reaches the nodes."""
        return self._make_engine()


def make_server_app(folder: Path, load_test: LoadTest) -> ServerApp:
    """Return the ServerApp of the app in `folder`; it tests models on the samples that `load_test` returns."""
    app = ServerApp()

    @app.main()
    def main(grid: Grid, context: Context) -> None:
        serve(folder, load_test, grid, context.run_config)

    return app


def serve(folder: Path, load_test: LoadTest, grid: Grid, told: Mapping[str, Any]) -> Path:
    """Run the federation, or resume it from its last checkpoint; return its run folder."""
    config, samples = read_config(folder), Samples.read(folder / SAMPLES)
    nodes, sizes = meet(grid, config.clients, float(told["patience-s"]))
    data = samples.server(sizes, load_test(told))
    engine = lambda: NodesEngine(grid, nodes, float(told["reply-timeout-s"]))  # noqa: E731
    deployment = Deployment(config, ProgressLines(Console()), data, engine)
    run = Path(str(told["out"])) / str(told["name"])
    begin_or_resume(run, deployment, pictures=False)
    (run / "partition.npz").unlink(missing_ok=True)  # the server does not know which node has which labels
    opened = RunFolder.open(run)
    write_plots(opened)
    write_report([opened], run / "report.html")
    return run
