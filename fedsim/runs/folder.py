"""Reads run folders: the files that a run writes and that every later command reads.

Nothing here writes files or imports matplotlib or torch, so that `fedsim show` starts fast.
"""

import math
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import yaml
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, ValidationError

from fedsim.config.machine import without_machine_settings
from fedsim.continual import accuracy_matrix
from fedsim.data.longtail import shot_groups
from fedsim.errors import FedsimError, nearest
from fedsim.reading import load_yaml, read_regular, require_regular
from fedsim.runs import purging
from fedsim.runs.pictures import PICTURES, read_pictures
from fedsim.runs.rows import Count, MetricRow, StageRow
from fedsim.sealed import Damaged, require_sum, sha256, unseal

Status: TypeAlias = Literal["finished", "diverged", "stopped", "failed", "unfinished"]

_LISTED_RUNS = 8
"""An error line names at most this many neighbouring runs."""


class Summary(BaseModel):
    """`summary.json`, written when a run ends; unknown keys are kept."""

    model_config = ConfigDict(
        frozen=True, strict=True, allow_inf_nan=False, extra="allow", use_attribute_docstrings=True
    )

    status: Literal["finished", "diverged", "stopped", "failed"]
    name: str | None = None
    strategy: str | None = None
    dataset: str | None = None
    seed: int | None = None
    rounds_done: Count | None = None
    rounds: Count | None = None
    ended: str | None = None
    """Why the run has fewer rounds than were run or asked for."""
    engine: dict[str, Any] | str | None = None
    wall_time_s: float | None = None
    versions: dict[str, Any] = {}
    model_sha256: str | None = None
    files: dict[str, str] = {}
    """SHA-256 of the files in the folder that no longer change."""
    metrics: dict[str, float | None] = {}
    per_class_accuracy: list[float | None] | None = None
    """Accuracy of each class in [0, 1]; null if the test set has no sample of the class."""
    class_counts: list[Count] | None = None
    """Training samples per class."""
    class_names: list[str] | None = None
    """Names of the classes, if they have any."""
    clients_by: str | None = None
    """The unit of which the natural partition makes one client each, such as the name of a column."""
    client_names: list[str] | None = None
    """Names of the clients, if a column of the table has them."""
    class_groups: list[str] | None = None
    """Group of each class: "many", "medium" or "few"; by FedLoGe's rule on `class_counts` if the run has no groups."""
    pictures_sha256: str | None = None
    stages: list[StageRow] | None = None
    """The classes of each stage; null if all classes were present from the first round."""
    shows: list[str] = []  # the most important metrics of the method
    own_metrics: dict[str, str] = {}  # descriptions of its own metrics and heads
    failures: Count | None = None
    reason: str | None = None


@dataclass(frozen=True, eq=False)
class RunFolder:
    """One run, as read from its folder by `RunFolder.open`.

    Parameters
    ----------
    path
        The folder, as the user gave it.
    config
        The resolved configuration, nested.
    environment
        Python, platform, CPU and versions; empty if the run stopped before it wrote them.
    summary
        How the run ended; None while it is not finished.
    metrics
        One row per round, in order. Rows of a round that occurs twice, as after a resume, are merged: the later
        line wins.
    """

    path: Path
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    summary: Summary | None
    metrics: tuple[MetricRow, ...]

    @classmethod
    def open(cls, path: str | Path, *, anew: bool = False) -> "RunFolder":
        """Return the run in the folder `path`, or refuse with one line that says what is wrong with it.

        Damaged metrics are no metrics when they are to be written `anew`.
        """
        folder = Path(path)
        _require_run_folder(folder)
        purging.require_none(folder)
        config = without_machine_settings(_read_mapping(folder / "config.yaml"))
        environment_file, summary_file = folder / "environment.json", folder / "summary.json"
        environment = _read_mapping(environment_file) if environment_file.exists() else {}
        summary = _read_summary(summary_file) if summary_file.exists() else None
        try:
            metrics = _read_metrics(folder / "metrics.jsonl", summary)
        except FedsimError:
            if not anew:
                raise
            metrics = ()
        return cls(folder, config, environment, summary, metrics)

    @property
    def status(self) -> Status:
        """How the run ended; "unfinished" while it is running, or if it was killed."""
        return self.summary.status if self.summary else "unfinished"

    @property
    def name(self) -> str:
        """The run's name: from its summary, else that of its folder."""
        return (self.summary and self.summary.name) or self.path.resolve().name

    @property
    def rounds_done(self) -> int:
        """The number of finished rounds."""
        if self.summary and self.summary.rounds_done is not None:
            return self.summary.rounds_done
        return self.metrics[-1].round if self.metrics else 0

    @property
    def rounds(self) -> int | None:
        """The configured number of rounds; None if the run does not record it."""
        if self.summary and self.summary.rounds is not None:
            return self.summary.rounds
        rounds = self.option("rounds")
        return rounds if isinstance(rounds, int) else None

    @property
    def metric_names(self) -> list[str]:
        """The names of all metrics of any round, sorted."""
        return sorted({name for row in self.metrics for name in row.metrics})

    @property
    def final_metrics(self) -> dict[str, float]:
        """The metrics of the summary, or without one the newest value of each metric; a missing value is NaN."""
        if self.summary and self.summary.metrics:
            return {name: _number(value) for name, value in self.summary.metrics.items()}
        return {name: _number(value) for row in self.metrics for name, value in row.metrics.items()}

    def series(self, name: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the rounds `(N,)` in which the metric `name` was measured, and its values `(N,)`; N may be 0."""
        rows = [row for row in self.metrics if name in row.metrics]
        rounds = np.array([row.round for row in rows], dtype=np.int64)
        return rounds, np.array([_number(row.metrics[name]) for row in rows], dtype=np.float64)

    @cached_property
    def config_changed(self) -> bool:
        """Whether config.yaml is not the file that the run began with; False if the run did not record its hash."""
        digest = dict(self.environment.get("files", {})).get("config.yaml")
        return digest is not None and digest != sha256(self.path / "config.yaml")

    @cached_property
    def label_counts(self) -> NDArray[np.int64] | None:
        """Numbers of samples per client and class `(K, C)`, read on demand; None if the run did not record them."""
        file = self.path / "partition.npz"
        if not file.exists():
            return None
        if digest := dict(self.environment.get("files", {})).get("partition.npz"):
            require_sum(file, digest, "delete that file to go on without it, or give another run")
        return _read_label_counts(file)

    @cached_property
    def pictures(self) -> dict[str, NDArray[np.uint8]]:
        """Images that the method shows, by title, `(N, C, H, W)`; {} for none."""
        file = self.path / PICTURES
        if not file.exists():
            return {}
        if digest := self.summary and self.summary.pictures_sha256:
            require_sum(file, digest, "delete that file to go on without it, or give another run")
        return read_pictures(file)

    @property
    def class_counts(self) -> NDArray[np.int64] | None:
        """Training samples per class `(C,)`: from the summary, else summed over the partition's clients."""
        if self.summary and self.summary.class_counts:
            return np.array(self.summary.class_counts, dtype=np.int64)
        return None if self.label_counts is None else self.label_counts.sum(axis=0)

    @property
    def per_class_accuracy(self) -> NDArray[np.float64] | None:
        """The final model's accuracy per class `(C,)` in [0, 1], NaN where unknown; None if it was not measured."""
        if self.summary is None or not self.summary.per_class_accuracy:
            return None
        return np.array([_number(value) for value in self.summary.per_class_accuracy], dtype=np.float64)

    @property
    def stage_matrix(self) -> NDArray[np.float64] | None:
        """The accuracy on the classes of stage j after stage i `(T, T)`; None for a run without stages, or unfinished.

        NaN where stage j comes after stage i.
        """
        rows = {row.round: row.per_class for row in self.metrics if row.per_class is not None}
        stages = self.summary and self.summary.stages
        if not stages or not all(stage.rounds[1] in rows for stage in stages):
            return None
        ends = np.array([rows[stage.rounds[1]] for stage in stages], dtype=np.float64)
        if ends.ndim != 2 or any(not 0 <= c < ends.shape[1] for stage in stages for c in stage.classes):
            return None
        return accuracy_matrix(ends, [np.array(stage.classes, np.int64) for stage in stages])

    def class_labels(self, number: int) -> list[str]:
        """Return the labels of that many classes: names, or numbers if there are none."""
        names = self.summary.class_names if self.summary else None
        return names if names is not None and len(names) == number else list(map(str, range(number)))

    @property
    def long_tailed(self) -> bool:
        """Whether the class sizes are uneven: the largest class has at least twice the samples of the smallest."""
        counts = self.class_counts
        return counts is None or bool(counts.max() >= 2 * counts.min())

    @property
    def class_groups(self) -> list[str] | None:
        """Per class "many", "medium" or "few"; None if the run did not measure these groups, or classes are even."""
        counts = self.class_counts
        measured = any(name.endswith("/accuracy_many") for name in self.final_metrics)
        if counts is None or not measured or not self.long_tailed:
            return None
        if self.summary and self.summary.class_groups:
            return self.summary.class_groups
        group_of = {int(c): group for group, classes in shot_groups(counts).items() for c in classes}
        return [group_of[c] for c in range(len(counts))]

    @cached_property
    def flat_config(self) -> dict[str, Any]:
        """The configuration with dotted keys, as `strategy.mu`, in its own order."""
        return flatten(self.config)

    def option(self, dotted: str) -> Any:
        """Return the value in the configuration at a dotted path, such as `data.partition`; None if there is none."""
        value: Any = self.config
        for key in dotted.split("."):
            value = value.get(key) if isinstance(value, Mapping) else None
        return value


def flatten(mapping: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return the leaves of a nested mapping by their dotted keys; an empty mapping is a leaf."""
    flat: dict[str, Any] = {}
    for key, value in mapping.items():
        if isinstance(value, Mapping) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def run_labels(folders: Sequence[RunFolder]) -> list[str]:
    """Return one label per run, all different: the name, or the path where two runs share a name."""
    labels = [folder.name for folder in folders]
    labels = [str(f.path) if labels.count(label) > 1 else label for f, label in zip(folders, labels, strict=True)]
    return [f"{label} ({i + 1})" if labels.count(label) > 1 else label for i, label in enumerate(labels)]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _require_run_folder(folder: Path) -> None:
    if folder.is_file():
        inside = (folder.parent / "config.yaml").is_file()
        remedy = f"give its folder: {folder.parent}" if inside else "give the folder of a run"
        raise FedsimError(f"{folder}: is a file, not a run folder; {remedy}")
    if not folder.exists():
        siblings = _runs_in(folder.parent)
        hint = nearest(folder.name, siblings) if siblings else "give a folder that 'fedsim run' has written"
        raise FedsimError(f"{folder}: no such run folder; {hint}")
    if not (folder / "config.yaml").is_file():
        runs = _runs_in(folder)
        hint = (
            f"give one of the runs in it: {', '.join(runs)}" if runs else "give a folder that 'fedsim run' has written"
        )
        raise FedsimError(f"{folder}: not a run folder, it has no config.yaml; {hint}")


def _runs_in(parent: Path) -> list[str]:
    try:
        return sorted(config.parent.name for config in parent.glob("*/config.yaml"))[:_LISTED_RUNS]
    except OSError:
        return []


def _read_bytes(file: Path) -> bytes:
    try:
        return read_regular(file)
    except OSError as err:
        raise FedsimError(f"{file}: cannot be read ({err.strerror}); change permissions or give another run") from err


def _read_mapping(file: Path) -> Mapping[str, Any]:
    """Read a YAML or JSON file (these JSON files are valid YAML) whose top level is a mapping."""
    remedy = "restore that file or give another run"
    try:
        # Refuse here what `flatten` cannot walk, such as an alias to itself.
        data = load_yaml(unseal(_read_bytes(file)))
        if isinstance(data, Mapping):
            flatten(data)
    except yaml.MarkedYAMLError as err:
        where = f" (line {err.problem_mark.line + 1}: {err.problem})" if err.problem_mark else ""
        raise FedsimError(f"{file}: malformed{where}; {remedy}") from err
    except (yaml.YAMLError, ValueError, RecursionError) as err:
        raise FedsimError(f"{file}: malformed ({_one_line(err)}); {remedy}") from err
    if not isinstance(data, Mapping):
        raise FedsimError(f"{file}: must hold a mapping of names to values; {remedy}")
    return data


def _read_summary(file: Path) -> Summary:
    try:
        return Summary.model_validate_json(unseal(_read_bytes(file)))
    except Damaged as err:
        raise FedsimError(f"{file}: {err}; restore that file or give another run") from err
    except ValidationError as err:
        raise FedsimError(f"{file}: malformed ({_first_error(err)}); restore that file or give another run") from err


def _read_metrics(file: Path, summary: Summary | None) -> tuple[MetricRow, ...]:
    if not file.exists():
        return ()
    again = f"fedsim run --resume {file.parent} writes it anew"
    lines = [(number, line) for number, line in enumerate(_read_bytes(file).split(b"\n"), start=1) if line.strip()]
    rows: dict[int, MetricRow] = {}
    for number, line in lines:
        try:
            row = MetricRow.model_validate_json(line)
        except ValidationError as err:
            if number == lines[-1][0]:
                break  # torn: the run was killed, or is just now writing it
            raise FedsimError(f"{file}: line {number} is malformed ({_first_error(err)}); {again}") from err
        if row.round in rows:
            row = row.model_copy(update={"metrics": rows[row.round].metrics | row.metrics})
        rows[row.round] = row
    if summary is not None and "metrics.jsonl" in summary.files:
        require_sum(file, summary.files["metrics.jsonl"], again)
    return tuple(rows[key] for key in sorted(rows))


def _read_label_counts(file: Path) -> NDArray[np.int64]:
    remedy = "delete that file to go on without it, or give another run"
    try:
        require_regular(file)
        with np.load(file, allow_pickle=False) as archive:
            counts = np.asarray(archive["label_counts"])
    except (OSError, EOFError, KeyError, ValueError, AttributeError, TypeError, zipfile.BadZipFile, zlib.error) as err:
        raise FedsimError(f"{file}: cannot be read ({_one_line(err)}); {remedy}") from err
    if counts.ndim != 2 or counts.size == 0 or counts.dtype.kind not in "iu" or counts.min() < 0:
        got = f"{counts.dtype} of shape {counts.shape}"
        raise FedsimError(f"{file}: label_counts must be (clients, classes) non-negative integers, got {got}; {remedy}")
    return counts.astype(np.int64, copy=False)


def _first_error(err: ValidationError) -> str:
    first = err.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return _one_line(f"{where}: {first['msg']}" if where else first["msg"])


def _one_line(text: object) -> str:
    return " ".join(str(text).split())
