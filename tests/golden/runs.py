"""Small runs whose figures are kept in expected.json, and the command that writes them.

    python -m tests.golden.runs            # prints the sha256 of every model that the runs end with
    python -m tests.golden.runs --write    # writes expected.json anew

A change that is to change nothing prints the same lines before and after, on one machine. A change that moves the
figures writes them anew and says why. It needs nothing of fedsim but its command line, so that one file of it serves
two commits: PYTHONPATH=OTHER_TREE python tests/golden/runs.py
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import yaml

EXPECTED = Path(__file__).with_name("expected.json")

BASE: dict[str, Any] = {
    "clients": 6, "rounds": 3, "seed": 5,
    "data": {"max_per_class": 40, "imbalance_factor": 0.3},
    "model": {"name": "mlp", "norm": "batch", "hidden": [32]},
    "training": {"epochs": 1, "batch_size": 8, "lr": 0.1, "momentum": 0.5},
}  # fmt: skip

TOGETHER, ONE_BY_ONE = {"training.vectorize": "always"}, {"training.vectorize": "never"}

# The noise of private runs follows the bits of the models it is added to: other machines agree for one round only.
RUNS: dict[str, dict[str, Any]] = {
    "fedavg": {**TOGETHER, "history.keep": "updates"},
    "fedavg-faults": {
        **ONE_BY_ONE, "model": {"name": "cnn", "norm": "group"}, "cohort": "67%", "data.augment": "crop",
        "faults": {"dropout": 0.1, "nan": 0.1},
    },
    "fedavg-numbers": {
        **TOGETHER, "data": {"name": "diabetes", "partition": "iid"}, "model": "linear", "training.lr": 0.01,
    },
    "fedloge": {**TOGETHER, "strategy": "fedloge"},
    "fedld": {**ONE_BY_ONE, "strategy": "fedld", "training.weight_decay": 0.0},
    "fedlabel": {
        **TOGETHER, "strategy": "fedlabel", "model": {"name": "cnn", "norm": "group"}, "data.labelled_fraction": 0.2,
        "training.steps": 6,
    },
    "scaffold": {**TOGETHER, "strategy": "scaffold", "model.norm": "group", "cohort": 4},
    "fedrep": {**ONE_BY_ONE, "strategy": "fedrep"},
    "aggregate": {
        **TOGETHER, "strategy": {"name": "aggregate", "bag_size": 8, "rho": 0.0, "epsilon": 1.0},
        "data": {"name": "breast_cancer", "partition": "iid"}, "model": "logistic",
    },
    "fedadam": {**TOGETHER, "strategy": "fedadam", "model.norm": "none"},
    "client-privacy": {
        **TOGETHER, "model.norm": "group", "clients": 30, "cohort": 15, "rounds": 1,
        "privacy.client": {"noise_multiplier": 0.5, "delta": 1e-3, "clip_norm": 0.7, "clipping": "adaptive"},
    },
    "example-privacy": {
        **TOGETHER, "model.norm": "group", "rounds": 1, "privacy.example": {"target_epsilon": 20, "delta": 1e-3},
    },
    "ray": {
        **TOGETHER, "strategy": "ditto", "training.chunk": 2, "engine": {"name": "ray", "num_workers": 2},
    },
}  # fmt: skip

UNLEARNED = {"fedavg-class": ("class=3", "neggrad"), "fedavg-client": ("client=2", "federaser")}
"""From the run `fedavg`, each beside an oracle."""


class Figures:
    """What a run came to."""

    def __init__(self, folder: Path, metrics: dict[str, Any]) -> None:
        self.metrics = {name: value for name, value in metrics.items() if "per_s" not in name}
        exact = json.dumps(self.metrics, sort_keys=True).encode()
        self.sha256 = {"metrics": hashlib.sha256(exact).hexdigest()} | {
            str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in sorted([*folder.glob("*.safetensors"), *folder.glob("models/*.safetensors")])
        }


def _run(out: Path, name: str) -> Path:
    flat = {key: value for key, value in RUNS[name].items() if "." in key}
    config = BASE | {key: value for key, value in RUNS[name].items() if "." not in key}
    file = out / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config), encoding="utf-8")
    sets = [f"--set={key}={json.dumps(value)}" for key, value in flat.items()]
    _fedsim("run", "--quiet", f"--config={file}", f"--name={name}", f"--out={out}", *sets)
    return out / name


def _fedsim(*arguments: str) -> None:
    from fedsim.cli.main import main

    pictures = (mock.patch(f"fedsim.report.{name}") for name in ("plots.write_plots", "html.write_report"))
    with contextlib.ExitStack() as stack:
        for picture in pictures:
            stack.enter_context(picture)  # they take longer than the runs
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        try:
            main(list(arguments))
        except SystemExit as end:
            if end.code:
                raise RuntimeError(f"fedsim {' '.join(arguments)}: exit code {end.code}") from end


def figures(out: Path) -> Iterator[tuple[str, Figures]]:
    """Run everything, and yield (name, what it came to)."""
    for name in RUNS:
        folder = _run(out, name)
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        yield name, Figures(folder, summary["metrics"])
    for name, (forget, method) in UNLEARNED.items():
        _fedsim(
            "unlearn", str(out / "fedavg"), f"--method={method}", f"--forget={forget}", "--compare=retrain",
            "--seeds=3", f"--name={name}",
        )  # fmt: skip
        folder = out / "fedavg" / "unlearned" / name
        rows = json.loads((folder / "comparison.json").read_text(encoding="utf-8"))["rows"]
        kept = {
            f"{row['name']}/{metric}": row["metrics"][metric]["mean"]
            for row in rows
            for metric in ("accuracy_forget", "accuracy_test")
            if metric in row["metrics"] and row["kind"] != "baseline"
        }
        yield name, Figures(folder, kept)


def main() -> None:
    """Run everything; print checksums, or write expected.json."""
    with tempfile.TemporaryDirectory() as out:
        found = dict(figures(Path(out)))
    if "--write" in sys.argv:
        table = {
            "tolerance": "losses 1 %, or 0.01 if that is more; accuracies and other shares 0.02",
            "made by": "python -m tests.golden.runs --write",
            "runs": {name: {metric: round(v, 5) for metric, v in f.metrics.items()} for name, f in found.items()},
        }
        EXPECTED.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
        return
    for name, each in found.items():
        for file, digest in each.sha256.items():
            print(f"{digest}  {name}/{file}")


if __name__ == "__main__":
    main()
