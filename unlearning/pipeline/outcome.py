"""Writes the folder of an unlearning: models, numbers, pictures and report; the folder is written atomically."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import yaml

from fedsim.atomic import link, write_atomically
from fedsim.data.federation import FederatedData
from fedsim.environment import environment, versions
from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.portable import describe_in
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import save_model
from fedsim.runs.frozen import freeze
from fedsim.runs.reserve import new_content
from fedsim.runs.simulation import described
from fedsim.sealed import seal, sha256
from unlearning.api.registry import UnlearningConfig
from unlearning.pipeline.comparison import FILE, Comparison
from unlearning.pipeline.deletion import deleted_before
from unlearning.pipeline.deletions import Deletions, write_deletions
from unlearning.pipeline.forget import Request
from unlearning.pipeline.measure import Measured
from unlearning.pipeline.source import MARK, Source, further_model

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, eq=False, repr=False)
class Outcome:
    """The result of `unlearn`."""

    folder: Path
    comparison: Comparison
    firsts: Mapping[str, tuple[Classifier, Measured]]
    """The models of the first seed, which is that of the run, with their measurements."""
    left: FederatedData
    """The data that later commands on the folder use: the source's data without the samples that the request names."""
    further: Mapping[int, Classifier]
    """The best model of further seeds, if only one method was requested."""
    replayed: Path | None
    """A folder with the history and the last state of the best model's replay, if it has one."""
    ledgers: Mapping[str, Ledger] = field(default_factory=dict)
    """The privacy ledger of each method's model; empty if the run has no ledger."""

    @property
    def model(self) -> Classifier:
        """The model of the requested method; of several, the one closest to the oracle."""
        return self.firsts[self.comparison.best.name][0]

    def frame(self) -> pd.DataFrame:
        """Return a row for each model: kind, verdict, place, and the mean of each metric over seeds."""
        import pandas as pd

        rows = [
            {"model": row.name, "kind": row.kind, "verdict": row.verdict, "place": row.place}
            | {name: interval.mean for name, interval in row.metrics.items()}
            for row in self.comparison.rows
        ]
        return pd.DataFrame(rows).set_index("model")

    def __repr__(self) -> str:
        best = self.comparison.best
        verdict = f", {best.verdict}" if best.verdict else ""
        return f"<Outcome {self.folder}: {self.comparison.forget} forgotten by {best.name}{verdict}>"

    def _repr_html_(self) -> str:
        return str(self.frame().to_html(float_format="{:.4g}".format))


def write_outcome(outcome: Outcome, source: Source, request: Request, options: Mapping[str, UnlearningConfig]) -> None:
    """Write the folder of an outcome, replacing an older one of the same name."""
    final = outcome.folder
    try:
        with new_content(final) as temporary:
            _write_files(temporary, outcome, source, request, options)
    except (OSError, FedsimError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise FedsimError(f"{final}: cannot be written ({reason})") from None


def _write_files(
    folder: Path, outcome: Outcome, source: Source, request: Request, options: Mapping[str, UnlearningConfig]
) -> None:
    from unlearning.pipeline.changes import plot_changes  # import matplotlib only when needed
    from unlearning.pipeline.page import plots, write_page

    comparison = outcome.comparison
    methods = {row.name for row in comparison.rows if row.kind in ("method", "baseline")} & set(options)
    asked = _asked(comparison, source, {name: options[name] for name in sorted(methods)})
    write_atomically(folder / "config.yaml", yaml.safe_dump({MARK: asked}, sort_keys=False).encode())
    made_on = environment(source.device) | {"data_sha256": outcome.left.content_hash}
    write_atomically(folder / "environment.json", seal(json.dumps(made_on, indent=1)))
    freeze(folder, outcome.left)
    write_deletions(folder, Deletions(specs=[*deleted_before(source), request.spec]))
    np.save(folder / "forget.npy", request.rows, allow_pickle=False)
    describe_in(folder, described(source.config, source.data.dataset))
    _write_models(folder, outcome, sorted(methods) if len(methods) > 1 else [])
    write_atomically(folder / FILE, seal(comparison.model_dump_json(indent=1)))
    summary = _summary(outcome, source, request) | {"model_sha256": sha256(folder / "model.safetensors")}
    write_atomically(folder / "summary.json", seal(json.dumps(summary, indent=1)))
    drawn = plots(comparison, {name: measured for name, (_, measured) in outcome.firsts.items()})
    drawn += plot_changes(comparison, {name: model for name, (model, _) in outcome.firsts.items()})
    for plot in drawn:
        write_atomically(folder / "plots" / f"{plot.name}.png", plot.png, folders=True)
    write_page(folder / "report.html", outcome.folder.name, comparison, drawn)


def _asked(comparison: Comparison, source: Source, options: Mapping[str, UnlearningConfig]) -> dict[str, Any]:
    """Return the arguments that repeat the outcome, and the source that it started from."""
    return {
        "run": comparison.run,
        "root": source.root.resolve().name,
        "source": source.folder.path.resolve().name if source.earlier else None,
        "forget": comparison.forget,
        "methods": {name: one.model_dump(mode="json", exclude={"name"}) for name, one in options.items()},
        "compare": "retrain" if any(row.kind == "oracle" for row in comparison.rows) else None,
        "seeds": comparison.seeds,
    }


def _write_models(folder: Path, outcome: Outcome, methods: Sequence[str]) -> None:
    """Write the delivered model and its privacy ledger, those of `methods`, further seeds, and what a replay left."""
    save_model(folder / "model.safetensors", outcome.model.state_dict())
    if (best := outcome.comparison.best.name) in outcome.ledgers:
        outcome.ledgers[best].save(folder)
    if methods:
        (folder / "models").mkdir()
    for name in methods:
        save_model(folder / "models" / f"{name}.safetensors", outcome.firsts[name][0].state_dict())
        if name in outcome.ledgers:
            outcome.ledgers[name].save(folder / "models", f"{name}.privacy.json")
    if outcome.further:
        (folder / "seeds").mkdir()
    for seed, model in outcome.further.items():
        save_model(further_model(folder, seed), model.state_dict())
    for part in ("history", "checkpoints"):
        if outcome.replayed is not None and (outcome.replayed / part).is_dir():
            shutil.copytree(outcome.replayed / part, folder / part, copy_function=link)


def _summary(outcome: Outcome, source: Source, request: Request) -> dict[str, Any]:
    """Return the summary of the folder in the format of a run, without the hash of its model."""
    best = outcome.comparison.best
    return {
        "status": "finished",
        "name": outcome.folder.name,
        "strategy": source.config.strategy.name,
        "dataset": source.data.dataset.name,
        "seed": source.config.seed,
        "wall_time_s": best.mean("seconds"),
        "versions": versions(),
        "metrics": {name: metric.mean for name, metric in best.metrics.items()},
        "per_class_accuracy": best.class_accuracy,
        "class_counts": outcome.left.class_counts.tolist(),
        "method": best.name,
        "forgotten": {"spec": request.spec, "kind": request.kind, "samples": len(request.rows)},
        "source": {
            "run": outcome.comparison.run,
            "root": source.root.resolve().name,
            "model_sha256": source.folder.summary and source.folder.summary.model_sha256,
            "data_sha256": source.everyone.content_hash,
        },
    }
