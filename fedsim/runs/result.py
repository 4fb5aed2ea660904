"""The result of a run in Python: a table of its metrics, curves, its model, and a summary for notebooks."""

from __future__ import annotations

import html
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError, nearest
from fedsim.models.base import Classifier
from fedsim.plugins import short_name
from fedsim.report.glossary import headline, meaning
from fedsim.report.wording import format_metric
from fedsim.runs.folder import RunFolder
from fedsim.runs.state import Metrics

if TYPE_CHECKING:
    import pandas as pd

    from fedsim.report.figures import Plot


@dataclass(frozen=True, repr=False)
class RunResult:
    """What `run` returns."""

    folder: Path
    config: RunConfig
    """The resolved configuration; it repeats the run."""
    metrics: list[dict[str, Any]]
    """The lines of metrics.jsonl: {"round", "time_s", "metrics"}."""
    final: Metrics
    """The newest value of each metric."""
    model: Classifier
    """The final global model, in evaluation mode."""

    def frame(self) -> pd.DataFrame:
        """Return all metrics as a tidy table with the columns round, metric and value; missing values are NaN."""
        import pandas as pd

        rows = [(line["round"], name, value) for line in self.metrics for name, value in line["metrics"].items()]
        table = pd.DataFrame(rows, columns=["round", "metric", "value"])
        return table.astype({"round": "int64", "metric": "object", "value": "float64"})

    def plot(self, *metrics: str) -> Plot:
        """Return curves of these metrics over rounds, by default of the accuracies (or errors).

        A notebook shows it; `.figure` is a matplotlib figure, `.png` the image.

        Raises
        ------
        FedsimError
            If the run has no such metric.
        """
        from fedsim.report.curves import curves_of  # import matplotlib only when needed

        run = RunFolder.open(self.folder)
        for name in metrics:
            if name not in run.metric_names:
                raise FedsimError(f"plot: the run has no metric {name!r}; {nearest(name, run.metric_names)}")
        return curves_of(run, metrics)

    def _shown(self) -> list[tuple[str, str, str]]:
        """Return title, value and description of the most important metrics."""
        summary = RunFolder.open(self.folder).summary
        names = headline(self.final, summary.shows if summary else ())
        said = [meaning(name, summary.own_metrics if summary else None) for name in names]
        values = [self.final[name] for name in names]
        written = [format_metric(n, float("nan") if v is None else v) for n, v in zip(names, values, strict=True)]
        return [(one.title, value, one.sentence) for one, value in zip(said, written, strict=True)]

    def _title(self) -> str:
        config = self.config
        what = f"{short_name(config.strategy.name)} on {short_name(config.data.name)}"
        return f"{what}, {config.rounds} rounds, {config.clients} clients"

    def __repr__(self) -> str:
        told = "".join(f", {title}: {value}" for title, value, _ in self._shown()[:1])
        return f"<RunResult {self.folder}: {self._title()}{told}>"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><td style='text-align:left'>{html.escape(title)}</td><td>{html.escape(value)}</td>"
            f"<td style='text-align:left;opacity:.7'>{html.escape(sentence)}</td></tr>"
            for title, value, sentence in self._shown()
        )
        return (
            f"<b>{html.escape(str(self.folder))}</b>: {html.escape(self._title())}<table>{rows}</table>"
            f"{len(self.final)} metrics: <code>.frame()</code>, <code>.plot()</code>; "
            f"<code>fedsim.report(result)</code> writes the report"
        )
