"""Carries out a deletion: plans it, destroys the files, and writes a receipt to the run's ledger."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict

from fedsim.atomic import write_atomically
from fedsim.config.resolve import recorded_config, resolve, user_settings
from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.environment import versions
from fedsim.errors import FedsimError
from fedsim.runs import purging
from fedsim.runs.folder import RunFolder
from fedsim.runs.frozen import run_data
from fedsim.runs.reserve import held
from fedsim.sealed import seal, sha256, unseal
from unlearning.pipeline import purge
from unlearning.pipeline.comparison import Comparison
from unlearning.pipeline.deletions import DeletionRequest, Destroyed, Receipt, add_receipt, read_deletions
from unlearning.pipeline.forget import Request, parse_in_sequence
from unlearning.pipeline.signing import Signer, load_signer
from unlearning.pipeline.source import OUTCOME_NAME, Source, open_source

_EVIDENCE = ("accuracy_forget", "accuracy_retain", "accuracy_test", "mia_auc", "relearn_steps", "probe_forget")


def deleted_before(source: Source) -> list[str]:
    """Return the earlier requests of a source, in order."""
    return [*read_deletions(source.root).specs, *(request.spec for request in source.earlier)]


def planned(run: Path, specs: Sequence[str]) -> list[Destroyed]:
    """Return what a deletion of these requests, in sequence, would destroy; nothing is changed or trained."""
    source = open_source(run)
    left = source.everyone
    for request in parse_in_sequence(specs, source, deleted_before(source)):
        left = request.left(left)
    return purge.plan(source, left, None)


@dataclass(frozen=True)
class Deletion:
    """A description of what will be deleted, made before any work, as it may not be read afterwards."""

    asked: DeletionRequest
    command: str
    signer: Signer | None

    @classmethod
    def of(cls, source: Source, requests: Sequence[Request], command: str, signer: Signer | None) -> Deletion:
        """Return the deletion of these requests and of all earlier ones of the source."""
        named = [part for request in requests for part in (request.rows, request.unseen)]
        rows = np.unique(np.concatenate([*(earlier.rows for earlier in source.earlier), *named]))
        dataset, digest = source.whole or source.everyone.dataset, hashlib.sha256()
        for part in (rows, dataset.x_train[rows], dataset.y_train[rows]):
            digest.update(np.ascontiguousarray(part).data)
        partition = source.everyone.partition
        owners = partition.owners[np.isin(partition.indices, rows)]
        emptied = np.flatnonzero(partition.sizes == np.bincount(owners, minlength=source.config.clients))
        clients = [client for client in emptied.tolist() if partition.sizes[client]]
        specs = [*(earlier.spec for earlier in source.earlier), *(request.spec for request in requests)]
        kinds = {request.kind for request in requests}
        asked = DeletionRequest(
            specs=specs, kind=kinds.pop() if len(kinds) == 1 else "samples", clients=clients,
            rows_sha256=digest.hexdigest(),
        )  # fmt: skip
        return cls(asked, command, signer)

    def carry_out(
        self, source: Source, left: FederatedData, folder: Path, comparison: Comparison, say: Callable[[str], None]
    ) -> Receipt:
        """Purge the run of the source in favour of the outcome in `folder`, and write the receipt.

        The plan is written first, so that `finish` can complete an interrupted purge.
        """
        receipt = self._receipt(source, folder, comparison, purge.plan(source, left, folder))
        pending = _Pending(receipt=receipt, key=self.signer.fingerprint if self.signer else None)
        write_atomically(source.root / purging.FILE, seal(pending.model_dump_json(indent=1)))
        _carry_out(source.root, source.config, left, receipt, self.signer, say)
        return receipt

    def _receipt(self, source: Source, folder: Path, comparison: Comparison, destroyed: list[Destroyed]) -> Receipt:
        root, best = source.root, comparison.best
        before, told = RunFolder.open(root).summary, read_deletions(root)
        options = RunFolder.open(folder).option(f"unlearn.methods.{best.name}")
        return Receipt(
            number=len(told.receipts) + 1,
            time=datetime.now(UTC).isoformat(timespec="seconds"),
            run=root.resolve().name,
            request=self.asked,
            method=best.name,
            options=dict(options or {}),
            command=self.command,
            outcome=folder.name,
            model_sha256_before=before and before.model_sha256,
            model_sha256_after=sha256(folder / "model.safetensors"),
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


class _Pending(BaseModel):
    """A purge in progress; `purging.json` stores it until the purge is complete."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    receipt: Receipt
    """The receipt that will be written at the end."""
    key: str | None
    """Fingerprint of the key that will sign the receipt."""


def finish(run: Path, sign: Path | None, say: Callable[[str], None]) -> Receipt:
    """Complete an interrupted purge as it was planned.

    Raises
    ------
    FedsimError
        If there is no such purge, its plan is damaged, or it must be signed with another key.
    """
    signer = None if sign is None else load_signer(sign)
    file = run / purging.FILE
    with held(run):
        try:
            pending = _Pending.model_validate_json(unseal(file.read_bytes(), required=True))
        except FileNotFoundError:
            raise FedsimError(f"{run}: no purge of it was interrupted; leave out --finish") from None
        except (OSError, ValueError) as error:
            raise FedsimError(f"{file}: is not what was written ({' '.join(str(error).split())}); restore it") from None
        if pending.key != (signer.fingerprint if signer else None):
            remedy = "leave out --sign" if pending.key is None else f"give --sign with the key {pending.key}"
            raise FedsimError(f"{run}: its purge was begun with another signature; {remedy}")
        if not re.fullmatch(OUTCOME_NAME, pending.receipt.outcome):
            raise FedsimError(f"{file}: outcome: is not the name of an outcome; restore it")
        config = resolve(user_settings(), recorded_config(run))
        left = run_data(run / "unlearned" / pending.receipt.outcome, config)
        _carry_out(run, config, left, pending.receipt, signer, say)
        return pending.receipt


def _carry_out(
    root: Path, config: RunConfig, left: FederatedData, receipt: Receipt, signer: Signer | None,
    say: Callable[[str], None],
) -> None:  # fmt: skip
    """Carry out the plan of the receipt, also after an interruption, and write the receipt."""
    destroyed = receipt.destroyed
    purge.carry_out(root, config, left, root / "unlearned" / receipt.outcome, destroyed)
    file = add_receipt(root, receipt, signer)
    (root / purging.FILE).unlink()
    say(f"deleted: {len(destroyed):,} parts of {root}, {sum(gone.bytes for gone in destroyed) / 1e6:.1f} MB")
    say(f"receipt: {file}")
