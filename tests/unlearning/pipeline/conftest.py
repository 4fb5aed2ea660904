import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Path:
    return shutil.copytree(tiny_run, tmp_path / "tiny")
