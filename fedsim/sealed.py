"""Checksums for files that are read back: a JSON file contains its own, and those of files beside it.

They detect files changed by disks and copies. They do not detect forgeries, because anyone can compute them.
"""

import hashlib
from pathlib import Path

from fedsim.errors import FedsimError

_KEY = b',\n "seal": "'


class Damaged(ValueError):
    """A file is not as it was written."""


def seal(json_object: str) -> bytes:
    """Return the text of a JSON object, indented by 1, with its checksum as the last key."""
    content = json_object.rstrip().encode()
    if not content.endswith(b"\n}"):
        raise ValueError("needs a JSON object that is not empty, indented by 1")
    return content[:-2] + _KEY + hashlib.sha256(content).hexdigest().encode() + b'"\n}\n'


def unseal(content: bytes, *, required: bool = False) -> bytes:
    """Return the JSON text that was passed to `seal`.

    Parameters
    ----------
    content
        The file's content.
    required
        Whether a file without a checksum is refused. A person or another program may have written such a file.

    Raises
    ------
    Damaged
        If the checksum does not match, or is missing although it is required.
    """
    body, key, rest = content.rpartition(_KEY)
    if not key:
        if required:
            raise Damaged("it has no checksum")
        return content
    written = body + b"\n}"
    if rest.rstrip() != hashlib.sha256(written).hexdigest().encode() + b'"\n}':
        raise Damaged("its checksum does not match: it has been changed since it was written")
    return written


def predates_checksums(run_folder: Path) -> bool:
    """Return whether an old version without checksums wrote a run: its environment.json exists and has none."""
    made_on = run_folder / "environment.json"
    return made_on.is_file() and _KEY not in made_on.read_bytes()


def unseal_in_run(file: Path, run_folder: Path) -> bytes:
    """Return the JSON text of a file of a run; only runs of an old version may lack the checksum.

    Raises
    ------
    Damaged
        If the checksum does not match, or is missing although it is required.
    """
    content = file.read_bytes()
    return unseal(content, required=_KEY not in content and not predates_checksums(run_folder))


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_sum(file: Path, digest: str, remedy: str) -> None:
    """Refuse a file that has another SHA-256 or cannot be read.

    Raises
    ------
    FedsimError
        One line, which ends with `remedy`.
    """
    try:
        found = sha256(file)
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    if found != digest:
        raise FedsimError(f"{file}: is not what the run wrote (its hash differs); {remedy}")
