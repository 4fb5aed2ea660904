"""Receipts that are signed."""

import json
import shutil
from pathlib import Path

import pytest

from tests.tiny_runs import Cli


def test_signed_receipts(cli: Cli, tiny_run: Path, tmp_path: Path, no_pictures: None) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    files = {}
    for name in ("ours", "theirs"):
        key = Ed25519PrivateKey.generate()
        files[name], public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        files[name].write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    told = cli("unlearn", folder, "--method=finetune", "--forget=client=2", "--purge", "--sign", files["ours"])
    assert told.code == 0, told.err
    assert "whole, signed" in cli("receipts", folder, "--verify", "--key", tmp_path / "ours.pub").out
    assert "was made with the key" in cli("receipts", folder, "--verify", "--key", tmp_path / "theirs.pub").err
    signature = folder / "receipts" / "0001.sig"
    signed = json.loads(signature.read_text())
    signed["signature"] = ("B" if signed["signature"][0] == "A" else "A") + signed["signature"][1:]
    signature.write_text(json.dumps(signed))
    assert "does not match its receipt" in cli("receipts", folder, "--verify").err
    bad = cli("unlearn", folder, "--method=finetune", "--forget=client=1", "--purge", "--sign", tmp_path / "ours.pub")
    assert (bad.code, "is not a PEM private key" in bad.err) == (2, True)
