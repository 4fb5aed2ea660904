"""TARGET's images."""

import json
import os
import signal
from pathlib import Path

import pytest
import torch

from fedsim.runs import runner
from fedsim.runs.checkpoint import load_latest
from strategies import target
from strategies.target import SAMPLES
from tests.strategies.small_runs import BASE, OWN, finished
from tests.strategies.staged_runs import STAGED


def test_the_images_depend_on_seed_and_model_alone():
    first, again, other = (finished("target", {**STAGED, "rounds": 3, "seed": s}).state.server[0] for s in (0, 0, 1))
    assert torch.equal(first[SAMPLES], again[SAMPLES])
    assert not torch.equal(first[SAMPLES], other[SAMPLES])
    assert first[SAMPLES].dtype == torch.uint8


def test_the_server_replaces_its_images_and_keeps_a_sheet_of_each_stage():
    run = finished("target", {**STAGED, "rounds": 3, "data.stages": {"count": 3, "rounds": 1}})
    assert len(run.state.metrics) == 3
    pictures = run.simulation.server.pictures()
    assert list(pictures) == ["Synthetic images of stage 2", "Synthetic images of stage 3"]
    assert all(images.dtype == torch.uint8 for images in pictures.values())
    samples = run.state.server[0][SAMPLES]
    assert torch.equal(pictures["Synthetic images of stage 3"], samples[:: max(1, len(samples) // 64)][:64])


RUN = {
    **OWN["target"], "strategy.name": "target", "rounds": 4, "data.stages.count": 2, "data.partition": "iid",
    "checkpoint_every": 1, "model.name": "cnn", "model.norm": "batch",
}  # fmt: skip


@pytest.fixture(autouse=True)
def no_pictures(monkeypatch):
    monkeypatch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)


def base():
    return {key: value for key, value in BASE.items() if key != "model"}


def sha_of(folder: Path) -> dict[str, str]:
    """Return the hashes of the model, and of the teacher and the images that the server keeps."""
    summary = json.loads((folder / "summary.json").read_text())
    return {"model": summary["model_sha256"], **summary["server_sha256"]}


def killed_at(moment: str, folder: Path) -> int:
    """Run in a child process that kills itself in the middle of the synthesis, or right after it; return its status."""
    child = os.fork()
    if child == 0:
        make = target.synthesize

        def dying(*given):
            *rest, tick, forward = given
            ticks = 0

            def count():
                nonlocal ticks
                ticks += 1
                if moment == "inside" and ticks == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                tick()

            made = make(*rest, count, forward)  # type: ignore[call-arg]
            if moment == "after":
                os.kill(os.getpid(), signal.SIGKILL)
            return made

        target.synthesize = dying
        try:
            runner.run(base(), overrides={**RUN, "name": folder.name, "out": str(folder.parent)})
        finally:
            os._exit(0)
    return os.waitpid(child, 0)[1]


@pytest.mark.parametrize("moment", ["inside", "after"])
def test_killed_in_its_synthesis_a_run_comes_to_the_same_bits(moment, tmp_path):
    whole = runner.run(base(), overrides={**RUN, "name": "whole", "out": str(tmp_path)}).folder
    assert os.WIFSIGNALED(killed_at(moment, tmp_path / "killed"))
    checkpoint = load_latest(tmp_path / "killed")
    assert checkpoint is not None
    assert checkpoint.round == 2  # the last of the first stage
    assert SAMPLES not in checkpoint.server[0]
    runner.resume(tmp_path / "killed")
    assert sha_of(tmp_path / "killed") == sha_of(whole)
    assert sha_of(whole).keys() == {"model", "previous", "samples", "sheet"}


@pytest.mark.ray
@pytest.mark.slow
@pytest.mark.parametrize("method", ["target", "fedewc", "class_means"])
def test_ray_comes_to_the_same_bits(method, tmp_path):
    shas = []
    for engine in ("inprocess", "ray"):
        here = {"name": engine, "out": str(tmp_path), "engine.name": engine, "training.chunk": 2}
        options = RUN if method == "target" else {k: v for k, v in RUN.items() if not k.startswith("strategy.")}
        run = runner.run(base(), overrides={**options, **here, "strategy.name": method}).folder
        checkpoint = load_latest(run)
        assert checkpoint is not None
        shas.append((sha_of(run), {name: value.double().sum().item() for name, value in checkpoint.server[0].items()}))
    assert shas[0] == shas[1]
