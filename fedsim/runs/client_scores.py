"""Scores of single clients: the spread of their accuracies, and clients.csv."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from flwr.app import Message

from fedsim.atomic import write_atomically
from fedsim.config.run import RunConfig
from fedsim.flower.internals import client_of
from fedsim.flower.records import scalars

FILE = "clients.csv"
_COLUMNS = ("accuracy", "accuracy_unmasked", "accuracy_masked", "mse")


@dataclass(frozen=True)
class ClientScore:
    """What one client measured on its own test samples."""

    client: int
    unseen: bool
    """Whether the client is never trained."""
    metrics: dict[str, float]
    """Metrics of the method's own predictions; `num-examples` is one of them."""

    @property
    def samples(self) -> int:
        """Number of test samples."""
        return int(self.metrics["num-examples"])


def evaluated(
    config: RunConfig, sizes: npt.NDArray[np.int64], trained: Set[int], *, personalised: bool
) -> dict[str, list[int]]:
    """Return the clients to evaluate, by group: "clients" or "unseen".

    `sizes` (K,) are the numbers of training samples; `trained` are the clients that have been trained.
    """
    which = config.eval_clients
    if which == "auto":
        which = "all" if personalised else "none"
    able = np.flatnonzero(sizes).tolist()
    seen = [c for c in able if c < config.clients_seen and (which != "seen" or c in trained)]
    return {"clients": [] if which == "none" else seen, "unseen": [c for c in able if c >= config.clients_seen]}


def noted(replies: Iterable[Message], scores: list[ClientScore], *, unseen: bool) -> Iterator[Message]:
    """Yield the replies of a wave, and add each client's test metrics to `scores`."""
    for reply in replies:
        if not reply.has_error() and reply.metadata.message_type == "evaluate":
            metrics = scalars(reply.content.metric_records["metrics"])
            if metrics["num-examples"]:
                own = {name: value for name, value in metrics.items() if ":" not in name}
                scores.append(ClientScore(client_of(reply.metadata.src_node_id), unseen, own))
        yield reply


def spread(scores: Sequence[ClientScore]) -> dict[str, float]:
    """Return the spread of clients' accuracies: standard deviation, 10th percentile, mean of the worst tenth.

    It also returns the accuracy over all samples together, and the numbers of clients and samples measured. The
    worst tenth is at least one client. The result is empty if there are no accuracies.
    """
    measured = [score for score in scores if "accuracy" in score.metrics]
    if not measured:
        return {}
    accuracies = np.sort([score.metrics["accuracy"] for score in measured])
    samples = np.array([score.samples for score in measured])
    hits = sum(score.metrics["accuracy"] * score.samples for score in measured)
    return {
        "accuracy_std": float(accuracies.std()),
        "accuracy_p10": float(np.quantile(accuracies, 0.1)),
        "accuracy_worst10": float(accuracies[: max(1, len(accuracies) // 10)].mean()),
        "accuracy_pooled": float(hits / samples.sum()),
        "num_clients": float(len(measured)),
        "num_samples": float(samples.sum()),
    }


def write_csv(path: Path, scores: Sequence[ClientScore], train_sizes: Sequence[int]) -> None:
    """Write one line per client: number, whether it was unseen, number of samples, and metrics."""
    columns = [name for name in _COLUMNS if any(name in score.metrics for score in scores)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["client", "group", "train_samples", "test_samples", *columns])
    for score in sorted(scores, key=lambda score: score.client):
        group = "unseen" if score.unseen else "seen"
        values = [repr(score.metrics[name]) if name in score.metrics else "" for name in columns]
        writer.writerow([score.client, group, train_sizes[score.client], score.samples, *values])
    write_atomically(path, text.getvalue().encode())
