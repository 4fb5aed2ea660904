"""Search of the defaults of all central unlearning methods by kind of request, on two data sets and architectures.

Test beds: a CNN on digits, and a CNN with batch norm on 1,500 images of Fashion-MNIST at 14x14 (`fashionmnist.npz` in
the data folder). FedAvg, 6 clients, 30 and 15 rounds. Client 2 has a backdoor, so that there is something to forget.
Requests: a class; client 2; an ordinary client; random samples.

    python scripts/unlearning_defaults.py --out FOLDER --stage tune      # all candidates, seeds 100 and 101
    python scripts/unlearning_defaults.py --out FOLDER --stage report    # the defaults, seeds 0, 1 and 2

In `tune`, the test samples are a part of the training data that no model is trained on; no sample of the test set is
read. `report` uses the test set, other seeds and, for Fashion-MNIST, other training images. Results that are already in
FOLDER are kept.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

import fedsim
from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.errors import FedsimError
from fedsim.federated.registry import declared
from fedsim.randomness import generator
from unlearning.api.registry import Method, load_unlearning
from unlearning.pipeline.apply import options_of, unlearn_with
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.measure import Measured, measure
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.source import open_source

SEEDS = {"tune": (100, 101), "report": (0, 1, 2)}
MODELS: dict[str, dict[str, Any]] = {"digits": {"name": "cnn"}, "fashion": {"name": "cnn", "norm": "batch"}}
ROUNDS = {"digits": 30, "fashion": 15}
REQUESTS = ("class=3", "client=2", "client=1", "random=0.05")
VALUES = ("accuracy_forget", "accuracy_retain", "accuracy_test", "mia_auc", "average_gap")
RUN: dict[str, Any] = {
    "strategy": "fedavg", "clients": 6,
    "training": {"epochs": 3, "batch_size": 16, "lr": 0.05, "momentum": 0.9},
}  # fmt: skip
_CANARIES = {"backdoor_clients": [2]}
_TRAINED, _TESTED = 1_500, 1_000
_ALLOWED = 3.0  # the largest loss of accuracy on kept samples that a default may cause, in points


def grid(**values: list[Any]) -> list[dict[str, Any]]:
    """Return all combinations."""
    found: list[dict[str, Any]] = [{}]
    for name, each in values.items():
        found = [{**options, name: value} for options in found for value in each]
    return found


CANDIDATES: dict[str, list[dict[str, Any]]] = {
    "bad_teacher": grid(retain_share=[1.0], lr=[3e-4, 1e-3]),
    "ct": grid(epochs=[20], lr=[0.01, 0.03]),
    "eu_k": grid(epochs=[20], lr=[0.01, 0.03]),
    "laf": grid(lr_unlearn=[4e-4], lr_align=[1.2e-3], temperature=[5.0, 20.0]),
    "modhifi_u": [*grid(share=[0.02, 0.1], layers=[1]), *grid(share=[0.03])],
    "msg": grid(share=[0.9], epochs=[20], lr=[0.01, 0.03]),
    "neggrad": grid(lr=[1e-3, 3e-3, 1e-2], ceiling=[0.5, 1.0]),
    "neggrad_plus": [*grid(alpha=[0.8], lr=[0.01, 0.03]), *grid(alpha=[0.5])],
    "not": grid(epochs=[20, 30], lr=[0.03]),
    "random_labels": [*grid(lr=[0.03]), *grid(lr=[0.03], epochs=[10])],
    "salun": [*grid(lr=[0.03]), *grid(lr=[0.03], epochs=[10])],
    "scrub": [*grid(lr=[0.03, 0.05], max_epochs=[5]), *grid(lr=[0.03], max_epochs=[5], epochs=[10])],
    "ssd": [*grid(alpha=[10.0, 30.0]), *grid(dampening=[0.5])],
    "unsir": [
        *grid(impair_lr=[0.005], repair_epochs=[6]),
        *grid(impair_lr=[0.01], repair_epochs=[6], retain_share=[1.0]),
    ],
}
"""Options that override the defaults; the defaults themselves are always candidates."""


def run_of(out: Path, stage: str, bed: str, seed: int, root: Path) -> Path:
    """Return the folder of a run with its data."""
    folder, data = out / f"{stage}-{bed}-{seed}", out / f"{stage}-{bed}-{seed}.npz"
    if (folder / "summary.json").exists():
        return folder
    arrays = digits(stage, seed) if bed == "digits" else fashion(stage, seed, root)
    np.savez(data, allow_pickle=False, **arrays)
    config = RUN | {
        "seed": seed, "name": folder.name, "out": str(out), "model": MODELS[bed],
        "rounds": ROUNDS[bed], "eval_every": ROUNDS[bed],
        "data": {"name": f"npz:{data}", "partition": "iid", "canaries": _CANARIES},
    }  # fmt: skip
    return fedsim.run(config, force=folder.exists()).folder


def digits(stage: str, seed: int) -> dict[str, np.ndarray]:
    """Return all of digits. For tuning, return only its training part; a fifth of it is the test set."""
    whole = load_dataset(DataConfig(name="digits"), seed)
    x, y = whole.x_train, whole.y_train
    if stage == "report":
        return {"x_train": x[:, 0], "y_train": y, "x_test": whole.x_test[:, 0], "y_test": whole.y_test}
    order = generator(seed, "defaults-held-out").permutation(len(y))
    held, kept = order[: len(y) // 5], order[len(y) // 5 :]
    return {"x_train": x[kept, 0], "y_train": y[kept], "x_test": x[held, 0], "y_test": y[held]}


def fashion(stage: str, seed: int, root: Path) -> dict[str, np.ndarray]:
    """Return images at 14x14; the test set is only used in `report`."""
    with np.load(root / "fashionmnist.npz", allow_pickle=False) as archive:
        x, y = small(archive["x_train"]), archive["y_train"].astype(np.int64).ravel()
        order = np.random.default_rng(0).permutation(len(y))
        mine = order[: len(y) // 2] if stage == "tune" else order[len(y) // 2 :]
        rows = generator(seed, "defaults-rows").permutation(mine)
        train, tests = rows[:_TRAINED], rows[_TRAINED : _TRAINED + _TESTED]
        if stage == "tune":
            return {"x_train": x[train], "y_train": y[train], "x_test": x[tests], "y_test": y[tests]}
        x_test, y_test = small(archive["x_test"])[:_TESTED], archive["y_test"].astype(np.int64).ravel()[:_TESTED]
        return {"x_train": x[train], "y_train": y[train], "x_test": x_test, "y_test": y_test}


def small(images: np.ndarray) -> np.ndarray:
    """Return images (n, 28, 28) averaged over 2x2 pixels, (n, 14, 14)."""
    means: np.ndarray = images.reshape(-1, 14, 2, 14, 2).mean((2, 4)).round()
    return means.astype(np.uint8)


def candidates(method: Method, kind: str, stage: str, only: list[dict[str, Any]] | None) -> Iterator[dict[str, Any]]:
    """Yield the candidates of a method, the defaults first."""
    yield {}
    if stage == "tune":
        yield from CANDIDATES.get(method.name, []) if only is None else only


class Results:
    """Lines of JSON, one per model; existing models are not made again."""

    def __init__(self, file: Path) -> None:
        self.file = file
        lines = file.read_text().splitlines() if file.exists() else []
        self.known = {self._key(line): line for line in map(json.loads, lines)}

    @staticmethod
    def _key(line: dict[str, Any]) -> str:
        return json.dumps([line[part] for part in ("bed", "seed", "request", "method", "options")], sort_keys=True)

    def has(self, line: dict[str, Any]) -> bool:
        """Return whether this model exists."""
        return self._key(line) in self.known

    def add(self, line: dict[str, Any]) -> None:
        """Append a model."""
        self.known[self._key(line)] = line
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def numbers(found: Measured) -> dict[str, float | None]:
    """Return the stored numbers of a model."""
    return {value: found.values.get(value) for value in VALUES}


def fill(
    results: Results,
    run: Path,
    bed: str,
    seed: int,
    stage: str,
    requests: Sequence[str],
    methods: list[str],
    tried: list[dict[str, Any]] | None,
) -> None:
    """Measure every candidate on every request of a run."""
    source = open_source(run)
    for spec in requests:
        request = parse_forget(spec, source.data, seed)
        line = {"bed": bed, "seed": seed, "request": spec, "kind": request.kind}
        wanted = []
        for name in methods:
            method = load_unlearning(name)
            needs = method.needs
            if request.kind in method.forgets and not (needs.federation or needs.attribution or needs.oracle):
                for given in candidates(method, request.kind, stage, tried):
                    options = options_of(method, given, request.kind)
                    told = options.model_dump(mode="json", exclude={"name"})
                    if not results.has(line | {"method": name, "options": told}):
                        wanted.append((method, options, told))
        bare = [name for name in ("original", "oracle") if not results.has(line | {"method": name, "options": {}})]
        if not wanted and not bare:
            continue
        roles = roles_of(source, request)
        trained = retrained(source, source.data.without(request.rows), seed, "oracles")
        oracle = measure(trained.model, roles, seed)
        models = {"original": source.model, "oracle": trained.model}
        for name in bare:
            results.add(line | {"method": name, "options": {}} | numbers(measure(models[name], roles, seed, oracle)))
        for method, options, told in wanted:
            try:
                made = unlearn_with(method, options, source.model, roles, seed)
            except FedsimError as error:
                print(f"{bed} {seed} {spec}: {error}")
                continue
            found = numbers(measure(made.model, roles, seed, oracle))
            results.add(line | {"method": method.name, "options": told, "seconds": made.seconds} | found)
        print(f"{bed} {seed} {spec}: {len(wanted)} models", flush=True)


def table(lines: Iterable[dict[str, Any]]) -> str:
    """Return a Markdown table: accuracy on samples to forget (%), and on kept samples minus the oracle's (points).

    Both are means over seeds. A seed that lost more than 3 points on the kept samples is named.
    """
    found: dict[str, dict[tuple[str, str], list[tuple[float, float]]]] = {}
    lines = list(lines)
    oracle = {(line["bed"], line["seed"], line["request"]): line for line in lines if line["method"] == "oracle"}
    for line in lines:
        if (theirs := oracle.get((line["bed"], line["seed"], line["request"]))) and line["accuracy_forget"] is not None:
            name = " ".join([line["method"], *(f"{key}={value}" for key, value in changed(line).items())])
            kept = line["accuracy_retain"] - theirs["accuracy_retain"]
            row = found.setdefault(name, {})
            row.setdefault((line["bed"], line["request"]), []).append((100 * line["accuracy_forget"], 100 * kept))
    columns = list(dict.fromkeys(column for cells in found.values() for column in cells))
    rows = [["", *(f"{bed}: {request}" for bed, request in columns)], ["---"] * (len(columns) + 1)]
    for name, cells in found.items():
        rows.append([name, *(cell(cells.get(column, [])) for column in columns)])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def changed(line: dict[str, Any]) -> dict[str, Any]:
    """Return the options of a model that are not the method's defaults for this kind of request."""
    if line["method"] in ("original", "oracle"):
        return {}
    default = options_of(load_unlearning(line["method"]), {}, line["kind"]).model_dump(mode="json")
    return {key: value for key, value in line["options"].items() if default.get(key) != value}


def cell(seeds: list[tuple[float, float]]) -> str:
    """Return the text of a cell, from (forget %, points on kept samples) of each seed."""
    if not seeds:
        return "-"
    forget, kept = np.mean(seeds, 0)
    worst = min(points for _, points in seeds)
    return f"{forget:.0f} ({kept:+.1f}{f', one seed {worst:+.1f}' if worst < -_ALLOWED and len(seeds) > 1 else ''})"


def main(
    out: Annotated[Path, typer.Option(help="Folder for runs and results.")],
    stage: Annotated[str, typer.Option(help="tune or report.")] = "tune",
    root: Annotated[Path, typer.Option("--data-root", help="Folder with fashionmnist.npz.")] = Path(),
    method: Annotated[list[str] | None, typer.Option(help="Repeatable; all central ones by default.")] = None,
    bed: Annotated[list[str] | None, typer.Option(help="digits or fashion; both by default.")] = None,
    request: Annotated[list[str] | None, typer.Option(help="Repeatable; all by default.")] = None,
    seed: Annotated[list[int] | None, typer.Option(help="Repeatable; those of the stage by default.")] = None,
    tried: Annotated[str | None, typer.Option(help="Candidates as a JSON list of options, for one method.")] = None,
) -> None:
    """Measure, and print a table."""
    out.mkdir(parents=True, exist_ok=True)
    names = method or sorted(set(declared("unlearning", "unlearning")) - {"gs_lora", "gs_lora_pp"})
    results = Results(out / f"{stage}.jsonl")
    for one in bed or MODELS:
        for number in seed or SEEDS[stage]:
            run = run_of(out, stage, one, number, root)
            fill(
                results,
                run,
                one,
                number,
                stage,
                request or REQUESTS,
                names,
                None if tried is None else json.loads(tried),
            )
    print(table(results.known.values()))


if __name__ == "__main__":
    typer.run(main)
