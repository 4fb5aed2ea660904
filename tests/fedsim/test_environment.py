"""The record of what a run was made on identifies versions and sources, and not the machine or its user."""

import getpass
import platform
import sys

import torch

from fedsim.environment import code_in_use, code_sha256, environment, versions
from fedsim.version import VERSION


def test_versions_and_sources_are_in_it() -> None:
    found = environment(torch.device("cpu"))
    assert found["versions"] == versions()
    assert versions()["fedsim"] == VERSION
    assert versions()["torch"] in torch.__version__
    assert found["code_sha256"] == code_sha256() == code_in_use()["fedsim"]
    assert len(code_sha256()) == 64
    assert code_in_use()["python"] == ".".join(map(str, sys.version_info[:3]))


def test_nobody_is_named() -> None:
    told = str(environment(torch.device("cpu")).values())
    assert platform.node() not in told.replace(platform.platform(), "")
    assert f"/{getpass.getuser()}/" not in told
