"""How a run's clients do, one by one: the spread of their accuracies, and clients.csv."""

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
    """Whether it is never trained."""
    metrics: dict[str, float]
    """Of the method's own way to predict, `num-examples` among them."""

    @property
    def samples(self) -> int:
        """Test samples."""
        return int(self.metrics["num-examples"])


def evaluated(
    config: RunConfig, sizes: npt.NDArray[np.int64], trained: Set[int], *, personalised: bool
) -> dict[str, list[int]]:
    """Return the clients that are to measure themselves, by the group that they are in: "clients" or "unseen".

    `sizes` are (K,) their training samples, `trained` those that have been.
    """
    which = config.eval_clients
    if which == "auto":
        which = "all" if personalised else "none"
    able = np.flatnonzero(sizes).tolist()
    seen = [c for c in able if c < config.clients_seen and (which != "seen" or c in trained)]
    return {"clients": [] if which == "none" else seen, "unseen": [c for c in able if c >= config.clients_seen]}


def noted(replies: Iterable[Message], scores: list[ClientScore], *, unseen: bool) -> Iterator[Message]:
    """Yield the replies of a wave, having added what they say of clients' test samples to `scores`."""
    for reply in replies:
        if not reply.has_error() and reply.metadata.message_type == "evaluate":
            metrics = scalars(reply.content.metric_records["metrics"])
            if metrics["num-examples"]:
                own = {name: value for name, value in metrics.items() if ":" not in name}
                scores.append(ClientScore(client_of(reply.metadata.src_node_id), unseen, own))
        yield reply


def spread(scores: Sequence[ClientScore]) -> dict[str, float]:
    """Return how clients' accuracies differ: standard deviation, 10th percentile, mean of the worst tenth.

    With them come the accuracy over all samples together, and how many clients and samples the figures rest on. The
    worst tenth is at least one client. Empty where there are no accuracies.
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
    """Write one line per client: its number, whether it was unseen, how many samples it has, how it does."""
    columns = [name for name in _COLUMNS if any(name in score.metrics for score in scores)]
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["client", "group", "train_samples", "test_samples", *columns])
    for score in sorted(scores, key=lambda score: score.client):
        group = "unseen" if score.unseen else "seen"
        values = [repr(score.metrics[name]) if name in score.metrics else "" for name in columns]
        writer.writerow([score.client, group, train_sizes[score.client], score.samples, *values])
    write_atomically(path, text.getvalue().encode())
