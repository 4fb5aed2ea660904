"""The ledger of a run's deletions, `deletions.json`, and a receipt for each deletion in `receipts/`.

Receipts are chained: each contains the SHA-256 of the previous file, and the ledger that of every receipt. With an old
hash one can verify that no earlier receipt was changed. A signature (Ed25519) shows who wrote a receipt.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from fedsim.atomic import write_atomically
from fedsim.errors import FedsimError
from fedsim.report.html import Section, write_page
from fedsim.sealed import seal, sha256, unseal
from unlearning.pipeline.signing import Signer, verify_signature

LEDGER = "deletions.json"
RECEIPTS = "receipts"


class Destroyed(BaseModel):
    """A file or folder that was destroyed."""

    model_config = ConfigDict(frozen=True)

    path: str
    """Path relative to the run folder."""
    bytes: int
    what: str


class DeletionRequest(BaseModel):
    """The deleted samples, including those of earlier requests that led to the model."""

    model_config = ConfigDict(frozen=True)

    specs: list[str]
    kind: str
    clients: list[int]
    """The clients that have no data left."""
    rows_sha256: str
    """SHA-256 of the rows' numbers, inputs and labels, in ascending order of rows."""


class Receipt(BaseModel):
    """A deletion: the request, what was destroyed, and measured evidence; `receipts/NNNN.json`."""

    model_config = ConfigDict(frozen=True, use_attribute_docstrings=True)

    number: int = Field(ge=1)
    time: str
    """UTC, ISO 8601."""
    run: str
    request: DeletionRequest
    method: str
    options: dict[str, Any]
    command: str
    outcome: str
    """Name of the folder under `unlearned/`."""
    model_sha256_before: str | None
    model_sha256_after: str
    destroyed: list[Destroyed]
    remains: list[str]
    """Copies of the data that a deletion in this folder cannot destroy."""
    verdict: str
    evidence: dict[str, dict[str, float]]
    """{model: {metric: mean over seeds}}."""
    versions: dict[str, str]
    previous_sha256: str | None
    """SHA-256 of the previous receipt; None for the first."""


class Deletions(BaseModel):
    """`deletions.json`: the samples that the run must never read again, and the receipts."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    specs: list[str] = []
    """Requests in order; those of the runs from which this run was derived come first."""
    clients: list[int] = []
    """The clients that have no data left."""
    receipts: list[str] = []
    """SHA-256 of each receipt."""


def read_deletions(run: Path) -> Deletions:
    """Return the ledger of a run; it is empty if nothing was deleted.

    Raises
    ------
    FedsimError
        If it is damaged.
    """
    file = run / LEDGER
    if not file.exists():
        return Deletions()
    try:
        return Deletions.model_validate_json(unseal(file.read_bytes(), required=True))
    except (OSError, ValidationError, ValueError) as error:
        raise FedsimError(f"{file}: is not what was written ({' '.join(str(error).split())}); restore it") from None


def write_deletions(run: Path, deletions: Deletions) -> None:
    """Write the ledger of a run."""
    write_atomically(run / LEDGER, seal(deletions.model_dump_json(indent=1)))


def add_receipt(run: Path, receipt: Receipt, signer: Signer | None = None) -> Path:
    """Write a receipt with its page and signature, and add it to the ledger; return its file."""
    folder, name = run / RECEIPTS, f"{receipt.number:04d}"
    content = receipt.model_dump_json(indent=1).encode() + b"\n"
    file = write_atomically(folder / f"{name}.json", content, folders=True)
    if signer is not None:
        write_atomically(folder / f"{name}.sig", signer.sign(content))
    ledger, digest = read_deletions(run), hashlib.sha256(content).hexdigest()
    if digest not in ledger.receipts:  # otherwise it was added before a purge was interrupted
        write_deletions(
            run,
            Deletions(
                specs=[*ledger.specs, *receipt.request.specs],
                clients=sorted({*ledger.clients, *receipt.request.clients}),
                receipts=[*ledger.receipts, digest],
            ),
        )
    signed = f"signed, key {signer.fingerprint}" if signer is not None else "not signed"
    write_page(
        folder / f"{name}.html", f"Receipt of deletion {receipt.number}", receipt.run, _sections(receipt, signed)
    )
    return file


def read_receipts(run: Path) -> list[Receipt]:
    """Return the receipts of a run, in order.

    Raises
    ------
    FedsimError
        If one is missing or cannot be read.
    """
    receipts = []
    for number in range(1, len(read_deletions(run).receipts) + 1):
        file = run / RECEIPTS / f"{number:04d}.json"
        try:
            receipts.append(Receipt.model_validate_json(file.read_bytes()))
        except (OSError, ValidationError) as error:
            reason = error.strerror if isinstance(error, OSError) else "it was changed"
            raise FedsimError(f"{file}: cannot be read ({reason}); restore it") from None
    return receipts


def verify(run: Path, public_key: Path | None = None) -> list[str]:
    """Check each receipt's hash, place in the chain, signature and destroyed files; return a line on each receipt.

    `public_key` is the PEM file of the key that all receipts must be signed with; without, a signature is checked
    against the key that it names.

    Raises
    ------
    FedsimError
        If anything differs from the receipts.
    """
    hashes, lines, before = read_deletions(run).receipts, [], None
    for receipt, digest in zip(read_receipts(run), hashes, strict=True):
        file = run / RECEIPTS / f"{receipt.number:04d}.json"
        if sha256(file) != digest:
            raise FedsimError(f"{file}: was changed since it was written (its hash is not the ledger's); restore it")
        if receipt.previous_sha256 != before:
            raise FedsimError(f"{file}: the chain is broken, its hash of the receipt before is wrong; restore it")
        signature = file.with_suffix(".sig")
        told = verify_signature(file.read_bytes(), signature, public_key)
        back = [gone.path for gone in receipt.destroyed if _is_back(run, gone, receipt, hashes)]
        if back:
            raise FedsimError(
                f"{run / back[0]}: was destroyed by deletion {receipt.number}, but exists again; remove it"
            )
        lines.append(f"deletion {receipt.number}, {receipt.time}: {', '.join(receipt.request.specs)}: whole, {told}")
        before = digest
    return lines


def _is_back(run: Path, gone: Destroyed, receipt: Receipt, hashes: list[str]) -> bool:
    """Return whether a destroyed file exists again; files that every deletion replaces are not checked."""
    return not gone.what.startswith("replaced") and (run / gone.path).exists() and receipt.number == len(hashes)


def _sections(receipt: Receipt, signed: str) -> list[Section]:
    asked = receipt.request
    facts = {
        "Deletion": f"number {receipt.number} of {receipt.run}, {receipt.time}",
        "Requests": ", then ".join(asked.specs),
        "Clients without data now": ", ".join(map(str, asked.clients)) or "none",
        "Hash of the rows": asked.rows_sha256,
        "Method": f"{receipt.method} {json.dumps(receipt.options)}",
        "Verdict": receipt.verdict,
        "Model before": receipt.model_sha256_before or "unknown",
        "Model after": receipt.model_sha256_after,
        "Command": receipt.command,
        "Receipt before": receipt.previous_sha256 or "none: this is the first",
        "Signature": signed,
        "Made with": ", ".join(f"{name} {version}" for name, version in receipt.versions.items()),
    }
    names = list(dict.fromkeys(name for values in receipt.evidence.values() for name in values))
    evidence = [
        [model, *(f"{values[name]:.3f}" if name in values else "–" for name in names)]
        for model, values in receipt.evidence.items()
    ]
    gone = [[part.path, f"{part.bytes:,}", part.what] for part in receipt.destroyed]
    return [
        Section("Request and deletion", rows=[["", ""], *map(list, facts.items())]),
        Section(
            "Destroyed",
            "Files and folders of the run; the remaining files do not determine their content.",
            rows=[["Path", "Bytes", "What"], *gone],
        ),
        Section(
            "What remains", rows=[["A purge of this folder cannot destroy"], *([line] for line in receipt.remains)]
        ),
        Section(
            "Evidence",
            "Means over seeds; the model should be close to the oracle, which was retrained without the samples.",
            rows=[["Model", *names], *evidence],
        ),
    ]
