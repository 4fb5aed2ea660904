import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from fedsim.garbage import quick_collections
from tests.unlearning.digits_views import few, new_model
from tests.unlearning.federations import train
from unlearning.evaluation.model_facts import model_facts
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.roles import Roles, assign_roles
from unlearning.pipeline.source import Source, open_source


@pytest.fixture(scope="module")
def run(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of a small run, to be unlearned by all tests of a module."""
    return shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "tiny")


@pytest.fixture(scope="module")
def source(tiny_run: Path) -> Source:
    return open_source(tiny_run)


@pytest.fixture(scope="module")
def roles(source: Source) -> Roles:
    """Return the views of a request for client 2."""
    request = parse_forget("client=2", source.data, seed=0)
    return assign_roles(source.data, request, 0, source.device)


@pytest.fixture(autouse=True, scope="session")
def _quick_collections() -> Iterator[None]:
    """Leave what is in memory now out of garbage collections: measuring memory makes one per method."""
    with quick_collections():
        yield


@pytest.fixture(autouse=True)
def _lighter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the reports of runs, and the noise floors of attacks."""
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
    monkeypatch.setattr("unlearning.pipeline.measure.model_facts", lambda *given, floors: model_facts(*given))


@pytest.fixture(scope="module")
def case():
    """A model, and in one batch each what is to be forgotten and kept, in float64."""
    return new_model(dtype=torch.float64), *few(dtype=torch.float64)


@pytest.fixture(params=["batch", "none"])
def model(request):
    return new_model("mlp", request.param, hidden=(32,))


@pytest.fixture(scope="session")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return a run in which three of six clients take part in each of four rounds."""
    return train(tmp_path_factory.mktemp("runs"))
