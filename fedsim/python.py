"""The commands as functions, for Python and notebooks. Results have a display, and errors name Python arguments.

Wherever a function takes a run, it takes the run's folder or the result of `run`.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar

from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.runs import runner
from fedsim.runs.folder import RunFolder, run_labels
from fedsim.runs.notebook import auto_progress
from fedsim.runs.observers import RoundObserver
from fedsim.runs.progress import Progress
from fedsim.runs.result import RunResult

if TYPE_CHECKING:
    import pandas as pd

    from fedsim.runs.evaluate import Evaluation, Part
    from fedsim.runs.personalize import Personal
    from unlearning.pipeline.outcome import Outcome

Run = RunResult | str | Path
Shown = Progress | Literal["auto"] | None

P = ParamSpec("P")
R = TypeVar("R")

_KEYS_OF_A_RUN = {
    "dataset": "data.name", "data-root": "data.root", "partition": "data.partition", "engine": "engine.name",
    "ray-address": "engine.ray_address",
}  # fmt: skip
"""Flags of `fedsim run` whose name differs from the key's."""
_SWITCHES = ("force", "no-privacy", "purge", "dashboard", "dry-run")
_ARGUMENTS = {"method": "methods"}


def in_python(text: str, *, of_a_run: bool) -> str:
    """Return an error message in which flags of the command line are replaced by their Python equivalents.

    With `of_a_run`, flags become keys of a run's configuration; otherwise they become arguments of the function.
    """
    text = re.sub(r"fedsim run --resume ('[^']*'|\S+)", lambda m: f"fedsim.resume({_text(m[1])})", text)
    text = re.sub(r"--set ([\w.]+)=(\S+?)(?=[;,)]|$|\s)", lambda m: f'overrides={{"{m[1]}": {_value(m[2])}}}', text)

    def flag(match: re.Match[str]) -> str:
        name = match[1]
        if name in _SWITCHES:
            return f"{name.replace('-', '_')}=True"
        if of_a_run:
            return f'"{_KEYS_OF_A_RUN.get(name, name.replace("-", "_"))}"'
        return _ARGUMENTS.get(name, name.replace("-", "_"))

    return re.sub(r"--([a-z][a-z-]*[a-z])", flag, text)


def _text(value: str) -> str:
    return f'"{value.strip(chr(39))}"'


def _value(value: str) -> str:
    return value if re.fullmatch(r"-?[\d.]+(e-?\d+)?", value) else _text(value)


def _speaks_python(of_a_run: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make the errors of a function name Python arguments instead of flags."""

    def wrap(function: Callable[P, R]) -> Callable[P, R]:
        @functools.wraps(function)
        def spoken(*args: P.args, **kwargs: P.kwargs) -> R:
            try:
                return function(*args, **kwargs)
            except FedsimError as error:
                raise type(error)(in_python(str(error), of_a_run=of_a_run)) from error.__cause__
            except KeyboardInterrupt as interrupt:
                raise KeyboardInterrupt(in_python(str(interrupt), of_a_run=of_a_run)) from None

        return spoken

    return wrap


def folder_of(run: Run) -> Path:
    """Return the folder of a run, given as a folder or as the result of `run`."""
    return run.folder if isinstance(run, RunResult) else Path(run)


def _progress(shown: Shown) -> Progress | None:
    return auto_progress() if shown == "auto" else shown


@_speaks_python(of_a_run=True)
def run(
    config: RunConfig | Mapping[str, Any] | str | Path | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    progress: Shown = "auto",
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    """Run a federation and return its metrics and model.

    Parameters
    ----------
    config
        A configuration, a mapping with the same content, a preset's name, or the path of a YAML file or run folder.
    overrides
        Dotted keys that override it, such as `{"training.lr": 0.1}`.
    force
        Replace an existing run of the same name.
    progress
        "auto": a bar in a notebook and on a terminal, otherwise nothing; None: nothing.
    observers
        They are notified of every round, see `fedsim.runs.observers.RoundObserver`.

    Raises
    ------
    FedsimError
        If the configuration or the data is bad; in this case nothing was written.
    """
    return runner.run(config, overrides=overrides, force=force, progress=_progress(progress), observers=observers)


@_speaks_python()
def resume(
    folder: Run,
    progress: Shown = "auto",
    rounds: int | None = None,
    *,
    overrides: Mapping[str, Any] | None = None,
    observers: Sequence[RoundObserver] = (),
) -> RunResult:
    """Resume a stopped run, or extend a run to more `rounds`; see `fedsim.runs.runner.resume`."""
    return runner.resume(folder_of(folder), _progress(progress), rounds, overrides=overrides, observers=observers)


@_speaks_python()
def load_run_model(folder: Run) -> Any:
    """Return the final global model of a finished run, a `torch.nn.Module` in evaluation mode."""
    return runner.load_run_model(folder_of(folder))


@_speaks_python()
def unlearn(
    run: Run, methods: str | Sequence[str], forget: str, *, progress: Shown = "auto", **options: Any
) -> Outcome:
    """Make a finished run forget data, and compare the result with a model that never saw it.

    Parameters
    ----------
    run
        The run, or the outcome of an earlier request.
    methods
        Name or names of unlearning methods, of your own files, or "all".
    forget
        As for `fedsim unlearn --forget`: "client=7", "class=3", "identity=12", "random=0.01".
    progress
        As in `run`.
    options
        `compare="retrain"`, `seeds`, `overrides={"ssd.alpha": 10}` and the others of `unlearning.pipeline.runner`.

    Raises
    ------
    FedsimError
        If the run, the request or an option is bad; in this case nothing was written.
    """
    from unlearning.pipeline.runner import unlearn as unlearn_run

    names = [name.strip() for name in methods.split(",")] if isinstance(methods, str) else list(methods)
    return unlearn_run(folder_of(run), names, forget, progress=_progress(progress), command="fedsim.unlearn", **options)


@dataclass(frozen=True)
class Personalized:
    """The result of `personalize`."""

    folder: Path
    """The folder with one model per client, and `personal.csv`."""
    clients: list[Personal]

    def frame(self) -> pd.DataFrame:
        """Return one row per client: group, samples, metrics, bytes, seconds, error."""
        import pandas as pd

        rows = [
            {"client": one.client, "group": one.group, "samples": one.samples, **one.metrics, "bytes": one.bytes,
             "seconds": one.seconds, "error": one.error}
            for one in self.clients
        ]  # fmt: skip
        return pd.DataFrame(rows).set_index("client")

    def __repr__(self) -> str:
        return f"<Personalized {self.folder}: {len(self.clients)} clients>"

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(max_rows=20))


@_speaks_python()
def personalize(
    run: Run, clients: str | None = None, *, out: str | Path | None = None, dataset: str | None = None,
    adapt_steps: int = 0, no_privacy: bool = False,
) -> Personalized:  # fmt: skip
    """Give clients their own models from a finished run, and measure each model; see `fedsim.runs.personalize`."""
    from fedsim.runs.personalize import personal_ledger, write_personal
    from fedsim.runs.personalize import personalize as personalize_run

    folder = folder_of(run)
    made = personalize_run(folder, clients, dataset=dataset, adapt_steps=adapt_steps, no_privacy=no_privacy)
    place = Path(out) if out is not None else folder / "personal"
    write_personal(place, made, personal_ledger(folder, made))
    return Personalized(place, made)


@_speaks_python()
def evaluate(
    model: Run, dataset: str | None = None, *, part: Part | None = None, overrides: Mapping[str, Any] | None = None
) -> Evaluation:
    """Measure a run's model, or a model in a file, on a data set; see `fedsim.runs.evaluate`."""
    from fedsim.config.resolve import allow_named
    from fedsim.runs.evaluate import evaluate as evaluate_model

    allow_named({"data.name": dataset})
    return evaluate_model(folder_of(model), dataset, part=part, overrides=overrides)


@_speaks_python()
def report(*runs: Run, out: str | Path | None = None) -> Path:
    """Write one HTML report of runs and return its path: by default in the only run, or `comparison.html` here."""
    from fedsim.report.html import write_report
    from unlearning.pipeline.prune_plot import pruning_sections

    folders = [RunFolder.open(folder_of(one)) for one in runs]
    one = folders[0].path / "report.html" if len(folders) == 1 else Path("comparison.html")
    return write_report(folders, Path(out) if out is not None else one, pruning_sections(folders))


@_speaks_python()
def compare(*runs: Run, metrics: Sequence[str] | None = None) -> pd.DataFrame:
    """Return the final metrics of runs, one row per run; the columns are by default the main metrics."""
    import pandas as pd

    from fedsim.report.glossary import headline

    folders = [RunFolder.open(folder_of(one)) for one in runs]
    every = [headline(one.final_metrics, one.summary.shows if one.summary else ()) for one in folders]
    columns = list(metrics) if metrics is not None else list(dict.fromkeys(name for names in every for name in names))
    rows = [{name: one.final_metrics.get(name) for name in columns} for one in folders]
    return pd.DataFrame(rows, index=pd.Index(run_labels(folders), name="run"), columns=columns, dtype="float64")


@_speaks_python()
def privacy(run: Run) -> pd.DataFrame:
    """Return the privacy guarantees of a run so far, one row each; no rows without protection."""
    import pandas as pd

    from fedsim.privacy.guarantees import guarantees
    from fedsim.privacy.ledger import Ledger

    columns = ["unit", "adjacency", "against", "epsilon", "delta", "accountant"]
    found = guarantees(Ledger.read(RunFolder.open(folder_of(run)).path))
    return pd.DataFrame([{name: getattr(row, name) for name in columns} for row in found], columns=columns)
