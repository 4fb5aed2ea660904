"""All user parts together, with an installed wheel in an empty folder: run, kill, resume, unlearn, report, predict."""

import json
import os
import subprocess
import sys
import venv
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest

from tests.page_files import FILES

ROWS = '''"""A network for rows."""

import torch
from torch import Tensor, nn


class Rows(nn.Module):
    """A hidden layer and a head."""

    def __init__(self, input_shape: tuple[int, ...], num_classes: int) -> None:
        super().__init__()
        self.hidden, self.head = nn.Linear(input_shape[0], 8), nn.Linear(8, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.tanh(self.hidden(x)))
'''
DEADLY = '''"""A metric that kills the process at its third call, while a file says so."""

import os
import signal
from pathlib import Path

calls = []


def sure(outputs, targets):
    """Mean margin."""
    calls.append(len(targets))
    if len(calls) == 3 and Path("die").exists():
        os.kill(os.getpid(), signal.SIGKILL)
    return float(outputs.max(1).mean() - outputs.min(1).mean())
'''
ROOT = Path(__file__).parents[2]
OWN = ["--strategy=./entropy.py", "--model=./rows.py:Rows", "--dataset=./waves.py:load", "--metric=./deadly.py"]
SMALL = ["--clients=4", "--rounds=4", "--set=training.epochs=1", "--set=checkpoint_every=1", "--quiet"]
ENGINES = [
    pytest.param(["--engine=inprocess"], id="inprocess"),
    pytest.param(["--engine=ray", "--set=engine.num_workers=2"], id="ray", marks=pytest.mark.ray),
]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the Python of an environment with fedsim from a wheel, and nothing of the source tree."""
    folder = tmp_path_factory.mktemp("installed")
    build = [sys.executable, "-m", "build", "--quiet", "--wheel", "--outdir", str(folder), str(ROOT)]
    built = subprocess.run(build, capture_output=True, text=True, check=False)
    if built.returncode:
        pytest.skip(f"no wheel can be built here: {built.stderr.strip()[-200:]}")
    venv.create(folder / "env", symlinks=True)
    (site,) = (folder / "env").glob("lib/python*/site-packages")
    (wheel,) = folder.glob("*.whl")
    ZipFile(wheel).extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]  # whose own .pth files are not read there
    (site / "libraries.pth").write_text("\n".join(libraries))
    return folder / "env" / "bin" / "python"


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_own_parts_through_run_kill_resume_unlearn_report_and_predict(
    tmp_path: Path, python: Path, engine: list[str]
) -> None:
    for name, text in {**FILES, "rows.py": ROWS, "deadly.py": DEADLY}.items():
        (tmp_path / name).write_text(text)
    environment = {**os.environ, "XDG_CONFIG_HOME": str(tmp_path / "settings"), "XDG_CACHE_HOME": str(tmp_path / "c")}

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(python), *arguments]
        return subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    def fedsim(*arguments: str) -> None:
        done = typed("-m", "fedsim", *arguments)
        assert done.returncode == 0, done.stderr

    where = typed("-c", "import fedsim; print(fedsim.__file__)").stdout
    assert where.startswith(str(python.parents[1])), where
    fedsim("run", *OWN, *SMALL, *engine, "--name=whole")
    (tmp_path / "die").touch()
    assert typed("-m", "fedsim", "run", *OWN, *SMALL, *engine, "--name=own").returncode == -9
    (tmp_path / "die").unlink()
    run = tmp_path / "runs" / "own"
    assert not (run / "model.safetensors").exists()
    fedsim("run", "--resume", str(run))
    assert (run / "model.safetensors").read_bytes() == (run.parent / "whole" / "model.safetensors").read_bytes()
    fedsim("unlearn", str(run), "--method=./shrink.py", "--forget=client=1", "--metric=./sure.py", "--name=gone", "-q")
    rows = json.loads((run / "unlearned" / "gone" / "comparison.json").read_text())["rows"]
    assert all("surer" in row["metrics"] for row in rows)
    fedsim("report", str(run), "--out", str(tmp_path / "page.html"))
    assert "Mean margin" in (tmp_path / "page.html").read_text(encoding="utf-8")
    told = typed(
        "-c", "import fedsim, numpy as np, waves; x = waves.load()['x'][:9]\n"
        "for where in ('runs/own', 'runs/own/unlearned/gone'): print(*fedsim.load_model(where).predict(x))",
    )  # fmt: skip
    assert told.returncode == 0, told.stderr
    assert all(set(line.split()) <= {"0", "1"} for line in told.stdout.splitlines())
    assert np.array([line.split() for line in told.stdout.splitlines()]).shape == (2, 9)
