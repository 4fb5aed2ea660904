"""Prunes the model of a finished run: cuts it, measures it beside the original, and writes a run folder.

The folder has the form of a run folder, with the numbers of channels in `model.widths` of its configuration. So every
command that takes a run takes it: `show`, `report`, `unlearn`, `run --set start=FOLDER`, `load_run_model`.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from fedsim.atomic import write_atomically
from fedsim.config.resolve import resolve
from fedsim.config.run import RunConfig
from fedsim.environment import environment, versions
from fedsim.errors import FedsimError
from fedsim.evaluation import Score, TestSet
from fedsim.models.base import Classifier
from fedsim.models.channels import channel_groups, cost, layer_positions
from fedsim.models.portable import describe_in
from fedsim.privacy.ledger import Ledger, unprotected
from fedsim.randomness import generator
from fedsim.runs.checkpoint import save_model
from fedsim.runs.folder import RunFolder
from fedsim.runs.frozen import FILE as FROZEN
from fedsim.runs.frozen import freeze, write_partition
from fedsim.runs.progress import Progress
from fedsim.runs.reserve import held, new_content
from fedsim.runs.simulation import described
from fedsim.sealed import seal, sha256
from unlearning.api.pruner import load_pruner
from unlearning.parts.cutting import Corrections, Target, cut
from unlearning.parts.layer_sums import Ask, ask_clients, ask_here
from unlearning.pipeline.apply import validated
from unlearning.pipeline.privacy import ledger_of, promised_to
from unlearning.pipeline.pruning_record import FILE, Data, MeasuredModel, Pruning, read_pruning
from unlearning.pipeline.source import Source, open_source

FOLDER = "pruned"
"""Folder under a run that contains its pruned models."""

_REPEATS = 15


@dataclass(frozen=True, eq=False)
class Pruned:
    """What `prune` returns."""

    folder: Path
    model: Classifier
    record: Pruning


def prune(
    run: str | Path,
    method: str,
    target: str,
    *,
    data: Data = "train",
    samples: int = 2000,
    how: Corrections | None = None,
    fine_tune_rounds: int = 0,
    name: str | None = None,
    overrides: Mapping[str, Any] | None = None,
    force: bool = False,
    no_privacy: bool = False,
    progress: Progress | None = None,
) -> Pruned:
    """Make the model of a finished run smaller; its folder is under `pruned/` of the run.

    Parameters
    ----------
    run
        A run folder.
    method
        Name of a pruning method.
    target
        The target size, see `Target.parse`.
    data
        train: the clients' training samples, of which each client sends sums only; synthetic: noise of the data
        set's moments, on the server; none: no samples, so that nothing can be corrected.
    samples
        Largest number of samples used; each client's part is proportional to its number of samples.
    how
        Compensation, batch norm and the number of cuts.
    fine_tune_rounds
        Rounds of the run's own training afterwards, in a run beside the new folder.
    name
        Name of the new folder; by default method and target.
    overrides
        Options of the method: {"option": value} or {"method.option": value}.
    force
        Replace a folder of this name.
    no_privacy
        Use the clients' samples, or train on them, although this breaks the run's privacy promise.
    progress
        Shows the progress of fine-tuning.

    Raises
    ------
    FedsimError
        If the run, its data, the target or an option is invalid; nothing was written then.
    """
    pruner, goal = load_pruner(method), Target.parse(target)
    own = {key.removeprefix(f"{method}."): value for key, value in (overrides or {}).items()}
    options = validated(pruner.config, method, own)
    folder = Path(run) / FOLDER / (name or f"{method}-{target.replace('=', '-')}")
    RunFolder.open(run)
    with contextlib.ExitStack() as stack:
        stack.enter_context(held(Path(run), shared=True))
        source = open_source(Path(run))
        inherited = ledger_of(source)
        if not no_privacy and data == "train" and (units := promised_to(inherited)):
            raise FedsimError(
                f"--data train: the clients' sums have no noise, and the run promises privacy of {units}; "
                "use --data synthetic, or give --no-privacy"
            )
        stack.enter_context(held(folder))
        _require_free(folder, force)
        how, shape = how or Corrections(), source.data.dataset.input_shape
        begun = time.perf_counter()
        small = cut(
            source.model, shape, pruner, options, goal, _asked(source, data, samples), how,
            generator(source.config.seed, f"prune-{method}"),
        )  # fmt: skip
        seconds = time.perf_counter() - begun
        before, after = (channel_groups(model, shape) for model in (source.model, small))
        if all(before[group].channels == after[group].channels for group in before):
            raise FedsimError(
                f"--target {target}: removes no channel of this model; give a smaller share, or flops=0.5"
            )
        (first, _), (second, score) = _measured(source, [source.model, small])
        record = Pruning(
            run=str(source.folder.path), method=method, options=options.model_dump(mode="json", exclude={"name"}),
            target=target, data=_WORDS[data], samples=0 if data == "none" else samples, cuts=how.cuts,
            compensate=how.compensate and data != "none", batch_norm=how.batch_norm and data != "none",
            before=first, after=second, seconds=seconds,
            channels={group: (before[group].channels, after[group].channels) for group in before},
        )  # fmt: skip
        if inherited is not None and data == "train":
            inherited = inherited.then(unprotected(f"pruning by {method}", len(inherited.took_part)))
        _write(folder, source, small, record, score, inherited)
    if fine_tune_rounds:
        _fine_tune(folder, fine_tune_rounds, force, no_privacy, progress)
    return Pruned(folder, small, record)


_WORDS: Mapping[Data, str] = {
    "none": "no samples",
    "train": "training samples on their clients, of which each sent sums of products of layer inputs",
    "synthetic": "noise with the mean and the standard deviation of the data set, on the server",
}


def _require_free(folder: Path, force: bool) -> None:
    if folder.exists() and not force:
        raise FedsimError(f"{folder}: exists already; choose another --name, or replace it with --force")


def _asked(source: Source, data: Data, samples: int) -> Ask | None:
    """Return the function that provides sums over samples: clients by queries, or the server over its own samples."""
    if data == "none":
        return None
    dataset, seed = source.data.dataset, source.config.seed
    if data == "synthetic":
        if dataset.is_text:
            raise FedsimError("--data synthetic: there is no noise for texts; use --data train or none")
        noise = generator(seed, "prune-noise").standard_normal((samples, *dataset.input_shape), np.float32)
        inputs = torch.from_numpy(noise).to(source.device, source.model.classifier.weight.dtype)
        return ask_here(source.model, dataset.input_shape, lambda: [inputs])
    partition = source.data.partition
    share, left_out = min(1.0, samples / max(1, int(partition.sizes.sum()))), []
    for client, size in enumerate(partition.sizes.tolist()):
        drawn = generator(seed, "prune-samples", client).permutation(np.asarray(partition[client]))
        left_out.append(drawn[min(size, max(2, round(share * size))) :])
    return ask_clients(source.config, replace(source.data.without(np.concatenate(left_out)), stages=None))


def _measured(source: Source, models: list[Classifier]) -> list[tuple[MeasuredModel, Score]]:
    """Return the size and the score of each model; times are medians, taken in turns."""
    dataset = source.everyone.dataset
    dtype = source.model.classifier.weight.dtype
    tests = TestSet(dataset, source.device, dtype, source.config.eval_metrics)
    positions = layer_positions(models[0], dataset.input_shape)
    times = {batch: _medians(models, batch, dataset.input_shape, source.device, dtype) for batch in (1, 256)}
    found = []
    for number, model in enumerate(models):
        score = tests.score(lambda x, model=model: {"model": model(x)})["model"]  # type: ignore[misc]
        spent = cost(model, positions)
        size = sum(value.numel() * value.element_size() for value in model.state_dict().values())
        measured = MeasuredModel(
            accuracy=getattr(score, "accuracy", None), loss=score.loss, flops=spent.flops,
            parameters=spent.parameters, megabytes=size / 1e6,
            milliseconds_1=times[1][number], milliseconds_256=times[256][number],
        )  # fmt: skip
        found.append((measured, score))
    return found


@torch.no_grad()
def _medians(
    models: list[Classifier], batch: int, shape: tuple[int, ...], device: torch.device, dtype: torch.dtype
) -> list[float]:
    x = torch.zeros(batch, *shape, device=device, dtype=dtype)
    taken: list[list[float]] = [[] for _ in models]
    for _ in range(_REPEATS + 1):
        for number, model in enumerate(models):
            begun = time.perf_counter()
            model(x)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            taken[number].append(1000 * (time.perf_counter() - begun))
    return [float(np.median(each[1:])) for each in taken]  # the first pass warms up


def _write(
    folder: Path, source: Source, model: Classifier, record: Pruning, score: Score, ledger: Ledger | None
) -> None:
    """Write the folder atomically."""
    try:
        with new_content(folder) as temporary:
            _write_files(temporary, folder.name, source, model, record, score, ledger)
    except OSError as error:
        raise FedsimError(f"{folder}: cannot be written ({error.strerror})") from None
    _write_pictures(folder)


def _config_of(source: Source, record: Pruning, name: str) -> RunConfig:
    widths = {group: after for group, (_, after) in record.channels.items()}
    model = source.config.model.model_copy(update={"widths": widths})
    return source.config.model_copy(update={"model": model, "name": name, "out": source.folder.path / FOLDER})


def _write_files(
    folder: Path, name: str, source: Source, model: Classifier, record: Pruning, score: Score, ledger: Ledger | None
) -> None:
    config = _config_of(source, record, name)
    write_atomically(folder / "config.yaml", config.to_yaml().encode())
    describe_in(folder, described(config, source.data.dataset))
    machine = environment(source.device) | {"data_sha256": source.everyone.content_hash}
    write_atomically(folder / "environment.json", seal(json.dumps(machine, indent=1)))
    write_partition(folder, source.everyone)
    if (source.folder.path / FROZEN).is_file():  # models derived from this one must obey its deletions
        freeze(folder, source.everyone)
    if ledger is not None:
        ledger.save(folder)
    save_model(folder / "model.safetensors", model.state_dict())
    write_atomically(folder / FILE, seal(record.model_dump_json(indent=1)))
    metrics = {key: value for key, value in score.metrics("global", {}).items() if np.isfinite(value)}
    rounds = source.folder.rounds_done
    line = {"round": rounds, "time_s": round(record.seconds, 4), "metrics": metrics}
    write_atomically(folder / "metrics.jsonl", (json.dumps(line) + "\n").encode())
    summary = {
        "status": "finished", "name": name, "strategy": source.config.strategy.name,
        "dataset": source.data.dataset.name, "seed": source.config.seed, "rounds": rounds, "rounds_done": rounds,
        "wall_time_s": round(record.seconds, 3), "versions": versions(),
        "model_sha256": sha256(folder / "model.safetensors"), "metrics": metrics,
        "per_class_accuracy": [value if np.isfinite(value) else None for value in score.per_class] or None,
        "class_counts": source.everyone.class_counts.tolist(), "failures": 0,
        "source": {"run": record.run, "model_sha256": source.folder.summary and source.folder.summary.model_sha256},
    }  # fmt: skip
    write_atomically(folder / "summary.json", seal(json.dumps(summary, indent=1)))


def _write_pictures(folder: Path) -> None:
    from fedsim.report.figures import png  # import matplotlib only when needed
    from fedsim.report.html import write_report
    from unlearning.pipeline.prune_plot import layers_plot, pruning_sections

    opened = RunFolder.open(folder)
    plot = layers_plot(read_pruning(folder))
    write_atomically(folder / "plots" / f"{plot.name}.png", png(plot.figure), folders=True)
    write_report([opened], folder / "report.html", pruning_sections([opened]))


def _fine_tune(folder: Path, rounds: int, force: bool, no_privacy: bool, progress: Progress | None) -> None:
    """Fine-tune the pruned model with the run's own training, in a new run."""
    from fedsim.runs import runner

    base = resolve(RunFolder.open(folder).config).model_dump(mode="json")
    changes = {
        "start": str(folder), "rounds": rounds, "name": f"{folder.name}-tuned", "history.keep": "none",
        "out": str(folder.parent), "privacy.given_up": no_privacy,
    }  # fmt: skip
    runner.run(base, overrides=changes, force=force, progress=progress)
