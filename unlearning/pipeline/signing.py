"""Ed25519 signatures of receipts; they need the optional package `cryptography`."""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fedsim.errors import FedsimError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

_MAKE = "openssl genpkey -algorithm ed25519 -out key.pem"


@dataclass(frozen=True)
class Signer:
    """A private key."""

    key: Ed25519PrivateKey

    @property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that identify the public key."""
        return _fingerprint(self.key.public_key().public_bytes_raw())

    def sign(self, content: bytes) -> bytes:
        """Return the text of a signature file: the public key and the signature, in base64."""
        public = self.key.public_key().public_bytes_raw()
        signed = {"ed25519": public, "signature": self.key.sign(content)}
        return (
            json.dumps({name: base64.b64encode(part).decode() for name, part in signed.items()}, indent=1).encode()
            + b"\n"
        )


def load_signer(file: Path) -> Signer:
    """Return the private key in a PEM file without a password.

    Raises
    ------
    FedsimError
        If the file is not such a key, or the package is missing.
    """
    _require_package()
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        key = load_pem_private_key(file.read_bytes(), None)
    except OSError as error:
        raise FedsimError(f"--sign {file}: cannot be read ({error.strerror}); make one: {_MAKE}") from None
    except (ValueError, TypeError):
        raise FedsimError(f"--sign {file}: is not a PEM private key without password; make one: {_MAKE}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise FedsimError(f"--sign {file}: is not an Ed25519 key; make one: {_MAKE}")
    return Signer(key)


def verify_signature(content: bytes, file: Path, public_key: Path | None) -> str:
    """Verify the signature of `content` in `file`; return the result as a phrase.

    `public_key` is the PEM file of the required key; without it, any key and also a missing signature are accepted.

    Raises
    ------
    FedsimError
        If the signature is wrong or of another key, or it is missing although a key is required.
    """
    if not file.exists():
        if public_key is not None:
            raise FedsimError(f"{file}: is missing, and --key requires signed receipts")
        return "not signed"
    _require_package()
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        told = json.loads(file.read_bytes())
        public = base64.b64decode(told["ed25519"], validate=True)
        if public_key is not None and public != _load_public(public_key).public_bytes_raw():
            raise FedsimError(f"{file}: was made with the key {_fingerprint(public)}, not with --key {public_key}")
        Ed25519PublicKey.from_public_bytes(public).verify(base64.b64decode(told["signature"], validate=True), content)
    except (OSError, ValueError, KeyError, TypeError, InvalidSignature):
        raise FedsimError(f"{file}: does not match its receipt: one of the two was changed; restore them") from None
    return f"signed, key {_fingerprint(public)}"


def _load_public(file: Path) -> Ed25519PublicKey:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    try:
        key = load_pem_public_key(file.read_bytes())
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise FedsimError(f"--key {file}: is not a PEM Ed25519 public key; make it: openssl pkey -in key.pem -pubout")
    return key


def _fingerprint(public: bytes) -> str:
    return hashlib.sha256(public).hexdigest()[:16]


def _require_package() -> None:
    try:
        import cryptography  # noqa: F401 -- checks that it is installed
    except ImportError:
        raise FedsimError("signed receipts need the package cryptography; pip install 'fedsim[receipts]'") from None
