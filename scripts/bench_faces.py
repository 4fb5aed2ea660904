"""Common parts of the benchmarks of forgetting people: an original, its requests, and a table beside the published one.

Used by `bench_mufac.py` and `bench_mucac.py`. Results that `--out` already has are kept, so an interrupted benchmark
continues where it stopped.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faces_published import METHODS, TABLES

import fedsim
from fedsim.atomic import write_atomically
from fedsim.report.html import Section, write_page
from fedsim.runs.folder import RunFolder
from unlearning.pipeline.comparison import Comparison, Row, read_comparison
from unlearning.pipeline.runner import unlearn

HERE = Path(__file__).parent

SMALL: dict[str, Any] = {
    "rounds": 40, "clients": 1, "data.partition": "iid", "data.folder.size": 32, "eval_every": 10, "engine.threads": 2,
    "model.name": f"{HERE / 'faces_net.py'}:FacesNet",
    "training.epochs": 1, "training.batch_size": 64, "training.optimizer": "adam", "training.lr": 2e-3,
    "training.schedule": "cosine",
}  # fmt: skip
"""Takes minutes on two cores: one client has all images, and a round is an epoch."""
PAPER: dict[str, Any] = {
    "clients": 1, "data.partition": "iid", "data.folder.size": 128, "data.normalise": False, "eval_every": 5,
    "data.augment": "flip_affine_jitter", "model.name": "tv_resnet18",
    "training.epochs": 1, "training.batch_size": 64, "training.lr": 0.01, "training.precision": "bf16-mixed",
}  # fmt: skip
"""The authors' settings, for a GPU."""
FEDERATED: dict[str, Any] = {
    "clients": None, "rounds": 40, "data.partition": "natural", "training.epochs": 2, "training.batch_size": 16,
    "training.optimizer": "sgd", "training.lr": 0.05, "training.momentum": 0.9, "history.keep": "updates",
}  # fmt: skip
"""Overrides for many clients: families or people, and the history that methods of replay need."""

_SGD = {"lr": 1e-3, "epochs": 2, "momentum": 0.0, "weight_decay": 0.0}
AUTHORS: dict[str, dict[str, Any]] = {
    "finetune": _SGD,
    "cf_k": _SGD | {"blocks": 2},
    str(HERE / "authors_neggrad.py"): {},
    "neggrad_plus": _SGD | {"lr": 2e-3, "alpha": 0.5, "ceiling": 100.0},
    "scrub": _SGD | {"temperature": 4.0, "alpha": 1.0, "ceiling": 100.0, "max_epochs": 2},
    str(HERE / "authors_unsir.py"): {},
    "eu_k": {"blocks": 99},
}
"""The authors' recipes, as far as the methods here support them.

Their loss is a sum of two terms, twice the mean, hence the lr of neggrad_plus. Their SCRUB passes over the kept samples
first. `eu_k` is retraining from scratch for ten epochs.
"""

COLUMNS = ("verdict", "test", "forget", "MIA", "NoMUS", "gap", "place")
HEADINGS = {
    "central": "Central: pools the clients' raw data on the server", "federated": "Federated", None: "", "": "",
}  # fmt: skip
MORE = ("where", "sign", "FS", "worst class", "time", "flags")


@dataclass(frozen=True)
class Benchmark:
    """One benchmark and its table."""

    title: str
    published: str
    """Key of a table in TABLES."""
    original: Mapping[str, Any]
    """The run's options; they override SMALL or PAPER."""
    forget: str
    out: Path
    seeds: int = 3
    methods: Sequence[str] = ("all",)
    recipes: Sequence[str] = ("all",)
    """The authors' recipes that become rows of their own; `all` for all."""
    notes: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Train, forget, and write table.json, table.csv, table.tex and index.html."""
        self.out.mkdir(parents=True, exist_ok=True)
        folder = self.out / "original"
        if not folder.exists():
            options = {key: value for key, value in self.original.items() if value is not None}
            fedsim.run({"strategy": "fedavg"}, overrides={**options, "name": "original", "out": str(self.out)})
        elif RunFolder.open(folder).status not in ("finished", "diverged"):
            fedsim.resume(folder)
        rows = self._rows(folder, "defaults", self.methods, {})
        comparison = read_comparison(folder / "unlearned" / "defaults")
        asked = {name: own for name, own in AUTHORS.items() if {"all", _stem(name)} & set(self.recipes)}
        if asked:
            given = {f"{_stem(name)}.{key}": value for name, own in asked.items() for key, value in own.items()}
            theirs = self._rows(folder, "authors", list(asked), given)
            rows += [
                {**row, "model": f"{row['model'].removeprefix('authors_')}, authors'", "place": None}  # without a place
                for row in theirs if row["kind"] == "method"
            ]  # fmt: skip
        self._write(rows, comparison)

    def _rows(
        self, folder: Path, name: str, methods: Sequence[str], overrides: Mapping[str, Any]
    ) -> list[dict[str, Any]]:
        if not (folder / "unlearned" / name).exists():
            unlearn(
                folder, methods, self.forget, compare="retrain", seeds=self.seeds, name=name, overrides=overrides,
                say=lambda line: print(line, flush=True),
            )  # fmt: skip
        return [facts(row) for row in read_comparison(folder / "unlearned" / name).rows]

    def _write(self, rows: list[dict[str, Any]], comparison: Comparison) -> None:
        notes = [*self.notes, *comparison.notes]
        told = {"title": self.title, "forget": self.forget, "seeds": self.seeds, "rows": rows, "notes": notes}
        write_atomically(self.out / "table.json", (json.dumps(told, indent=1) + "\n").encode(), folders=True)
        with (self.out / "table.csv").open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
        write_atomically(self.out / "table.tex", latex(rows).encode(), folders=True)
        title = f"{self.title}: forgetting {self.forget}"
        write_page(self.out / "index.html", title, str(self.out), self._sections(rows, comparison))
        print(f"\n{markdown(rows)}\n\n{self.out / 'index.html'}")

    def _sections(self, rows: list[dict[str, Any]], comparison: Comparison) -> list[Section]:
        about = (
            f"{comparison.num_forget} images to forget, {comparison.num_retain} to keep, {comparison.num_unseen} of "
            f"never-seen people of the same classes; {self.seeds} seeds. MIA is the accuracy of a logistic attack on "
            "the loss. Its sign is + if forgotten samples have the larger loss. FS is |MIA - 1/2|. NoMUS is the mean "
            "of test accuracy and 1 - 2 FS. Models are ranked by their distance to retraining, not by NoMUS: a model "
            "with the same answer for all images has the NoMUS of the row `constant`."
        )
        noise = [["Attack", "Chance", "Standard error", "Never-seen halves, mean", "their deviation"]]
        for row in comparison.rows:
            attack = row.attacks.get("mia_logistic") if row.kind == "original" else None
            if attack is not None:
                floor = attack["floor"] or {}
                known = (attack["chance"], attack["standard_error"], floor.get("mean"), floor.get("sd"))
                noise.append(["MIA logistic", *("-" if value is None else f"{value:.3f}" for value in known)])
        names = ["Model", *comparison.class_names]
        recall = [[row.name, *("-" if v is None else f"{100 * v:.0f}" for v in row.class_accuracy)]
                  for row in comparison.rows]  # fmt: skip
        table = TABLES[self.published]
        theirs = [
            [method, *(f"{100 * value:.1f}" if k == 0 else f"{value:.3f}" for k, value in enumerate(values))]
            for method, *values in zip(METHODS, *table, strict=True)
        ]
        return [
            Section("Models", about, rows=_grouped(rows, COLUMNS), compact=True),
            Section("More of each model", rows=_grouped(rows, MORE), folded=True),
            Section("Notes", " ".join(f"{note}." for note in [*self.notes, *comparison.notes]) or "None."),
            Section("Noise of the attack", "Differences below two standard errors are not significant.", rows=noise),
            Section("Recall of each class", "Percent of test images, first seed.", rows=[names, *recall]),
            Section(
                f"Published: {self.published}",
                "The authors' table on their images, one run each. Their original has another recipe than retraining.",
                rows=[["Model", "Test", "FS", "NoMUS"], *theirs],
            ),
        ]


def facts(row: Row) -> dict[str, Any]:
    """Return the columns of a model; numbers are means over seeds."""
    nomus, accuracy = row.mean("nomus"), row.mean("accuracy_test")
    sign = row.attacks.get("mia_logistic", {}).get("sign")
    recall = [value for value in row.class_accuracy if value is not None]
    return {
        "model": row.name, "kind": row.kind, "where": row.where, "verdict": row.verdict, "place": row.place,
        "why": row.why, "test": accuracy, "forget": row.mean("accuracy_forget"), "unseen": row.mean("accuracy_unseen"),
        "MIA": row.mean("mia_logistic"), "sign": sign, "FS": (accuracy + 1) / 2 - nomus, "NoMUS": nomus,
        "gap": row.mean("average_gap"), "worst class": min(recall, default=None), "seconds": row.mean("seconds"),
        "time": row.mean("time_share"), "flags": ", ".join(row.flags),
    }  # fmt: skip


def _grouped(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> list[list[str]]:
    """Return a table with a separate part for each group of ranked models."""
    table, last = [["Model", *columns]], "references"
    for row in rows:
        group = "The authors' recipes" if row["model"].endswith("authors'") else HEADINGS[row["where"]]
        if group != last and row["kind"] == "method":
            table.append([group])
            last = group
        table.append(_cells(row, columns))
    return table


def _cells(row: Mapping[str, Any], columns: Sequence[str] = COLUMNS + MORE) -> list[str]:
    percent = {"test", "forget", "worst class"}
    cells = [str(row["model"])]
    for column in columns:
        value = row[column]
        if value is None or value != value:  # NaN
            cells.append("-")
        elif column == "sign":
            cells.append("+" if value > 0 else "-" if value < 0 else "0")
        elif isinstance(value, float):
            cells.append(f"{100 * value:.1f}" if column in percent else f"{value:.{1 if column == 'gap' else 3}f}")
        else:
            cells.append(str(value))
    return cells


def markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as Markdown."""
    columns = COLUMNS + MORE
    lines = [f"| model | {' | '.join(columns)} |", "|" + "---|" * (len(columns) + 1)]
    return "\n".join([*lines, *(f"| {' | '.join(_cells(row))} |" for row in rows)])


def latex(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the table as LaTeX, for booktabs."""

    def escaped(text: str) -> str:
        return text.replace("_", r"\_").replace("%", r"\%")

    lines = [" & ".join(map(escaped, _cells(row, COLUMNS))) + r" \\" for row in rows]
    head = " & ".join(["model", *COLUMNS]) + r" \\"
    return "\n".join([rf"\begin{{tabular}}{{l{'r' * len(COLUMNS)}}}", r"\toprule", head, r"\midrule", *lines,
                      r"\bottomrule", r"\end{tabular}", ""])  # fmt: skip


def _stem(name: str) -> str:
    return Path(name).stem if name.endswith(".py") else name
