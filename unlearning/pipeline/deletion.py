"""A deletion from end to end: what it destroys, carried out, with a receipt in the run's ledger."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from fedsim.data.federation import FederatedData
from fedsim.environment import versions
from fedsim.runs.folder import RunFolder
from fedsim.sealed import sha256
from unlearning.pipeline import purge
from unlearning.pipeline.comparison import Comparison
from unlearning.pipeline.deletions import Asked, Destroyed, Receipt, add_receipt, read_deletions
from unlearning.pipeline.forget import Request, parse_in_sequence
from unlearning.pipeline.signing import Signer
from unlearning.pipeline.source import Source, open_source

_EVIDENCE = ("accuracy_forget", "accuracy_retain", "accuracy_test", "mia_auc", "relearn_steps", "probe_forget")


def deleted_before(source: Source) -> list[str]:
    """Return what was forgotten on the way to a source, the first first."""
    return [*read_deletions(source.root).specs, *(request.spec for request in source.earlier)]


def planned(run: Path, specs: Sequence[str]) -> list[Destroyed]:
    """Return what a deletion of these requests, one after another, would destroy; nothing is changed or trained."""
    source = open_source(run)
    left = source.data
    for request in parse_in_sequence(specs, source.data, source.config.seed, deleted_before(source)):
        left = left.without(request.rows)
    return purge.plan(source, left, None)


@dataclass(frozen=True)
class Deletion:
    """What is to be deleted, told before any work: afterwards nobody may look at it."""

    asked: Asked
    command: str
    signer: Signer | None

    @classmethod
    def of(cls, source: Source, requests: Sequence[Request], command: str, signer: Signer | None) -> Deletion:
        """Return the deletion of these requests, and of all that led to the source."""
        rows = np.unique(np.concatenate([*(e.rows for e in source.earlier), *(request.rows for request in requests)]))
        dataset, digest = source.whole or source.data.dataset, hashlib.sha256()
        for part in (rows, dataset.x_train[rows], dataset.y_train[rows]):
            digest.update(np.ascontiguousarray(part).data)
        owners = source.data.partition.owners[np.isin(source.data.partition.indices, rows)]
        emptied = np.flatnonzero(source.data.partition.sizes == np.bincount(owners, minlength=source.config.clients))
        named = [client for client in emptied.tolist() if source.data.partition.sizes[client]]
        specs = [*(earlier.spec for earlier in source.earlier), *(request.spec for request in requests)]
        kinds = {request.kind for request in requests}
        asked = Asked(
            specs=specs, kind=kinds.pop() if len(kinds) == 1 else "samples", clients=named,
            rows_sha256=digest.hexdigest(),
        )  # fmt: skip
        return cls(asked, command, signer)

    def carry_out(
        self, source: Source, left: FederatedData, folder: Path, comparison: Comparison, say: Callable[[str], None]
    ) -> Receipt:
        """Purge the run of the source in favour of the outcome in `folder`, and write the receipt."""
        root, best = source.root, comparison.best
        before = RunFolder.open(root).summary
        destroyed = purge.plan(source, left, folder)
        purge.carry_out(source, left, folder, destroyed)
        told = read_deletions(root)
        options = RunFolder.open(folder).option(f"unlearn.methods.{best.name}")
        receipt = Receipt(
            number=len(told.receipts) + 1,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            run=root.resolve().name,
            request=self.asked,
            method=best.name,
            options=dict(options or {}),
            command=self.command,
            outcome=folder.name,
            model_sha256_before=before and before.model_sha256,
            model_sha256_after=sha256(root / "model.safetensors"),
            destroyed=destroyed,
            remains=purge.REMAINS,
            verdict=f"{best.verdict}: {best.why}" if best.verdict else "none: --compare retrain judges the model",
            evidence={
                row.name: {name: row.mean(name) for name in _EVIDENCE if name in row.metrics}
                for row in comparison.rows
                if row.name in ("original", "oracle", best.name)
            },
            versions=versions(),
            previous_sha256=told.receipts[-1] if told.receipts else None,
        )
        file = add_receipt(root, receipt, self.signer)
        say(f"deleted: {len(destroyed):,} parts of {root}, {sum(gone.bytes for gone in destroyed) / 1e6:.1f} MB")
        say(f"receipt: {file}")
        return receipt
