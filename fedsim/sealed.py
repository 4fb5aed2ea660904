"""Checksums of what is read back: a JSON file carries its own, and those of the files beside it.

They tell of disks and copies that have changed a file. Who wants to forge one can compute them, too.
"""

import hashlib
from pathlib import Path

from fedsim.errors import FedsimError

_KEY = b',\n "seal": "'


class Damaged(ValueError):
    """A file is not what was written."""


def seal(json_object: str) -> bytes:
    """Return the text of a JSON object, indented by 1, with its checksum as the last key."""
    content = json_object.rstrip().encode()
    if not content.endswith(b"\n}"):
        raise ValueError("needs a JSON object that is not empty, indented by 1")
    return content[:-2] + _KEY + hashlib.sha256(content).hexdigest().encode() + b'"\n}\n'


def unseal(content: bytes, *, required: bool = False) -> bytes:
    """Return the JSON that `seal` was given.

    Parameters
    ----------
    content
        Of the file.
    required
        Whether a file without a checksum is refused; a person, or another program, may have written it.

    Raises
    ------
    Damaged
        If it is not what was written.
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
    """Return whether a run is of a version that wrote no checksums: its environment.json is there, and has none."""
    made_on = run_folder / "environment.json"
    return made_on.is_file() and _KEY not in made_on.read_bytes()


def unseal_in_run(file: Path, run_folder: Path) -> bytes:
    """Return the JSON of a file of a run, whose checksum may lack only where the run is of a version without them.

    Raises
    ------
    Damaged
        If it is not what was written.
    """
    content = file.read_bytes()
    return unseal(content, required=_KEY not in content and not predates_checksums(run_folder))


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def require_sum(file: Path, digest: str, remedy: str) -> None:
    """Refuse a file of another SHA-256, or one that cannot be read, with what to do about it.

    Raises
    ------
    FedsimError
        One line.
    """
    try:
        found = sha256(file)
    except OSError as error:
        found = f"cannot be read: {error.strerror}"
    if found != digest:
        raise FedsimError(f"{file}: is not what the run wrote (its hash differs); {remedy}")
