import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fedsim
from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError, InUse
from fedsim.runs.checkpoint import load_model
from fedsim.runs.progress import QuietProgress
from fedsim.runs.reserve import held
from fedsim.runs.runner import resume
from fedsim.runs.simulation import Simulation
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.oracle import recipe_hash, retrained
from unlearning.pipeline.places import reserved
from unlearning.pipeline.source import Source, open_source

FORGOTTEN = "client=2+random=0.1"


@pytest.fixture
def copied(tiny_run: Path, tmp_path: Path) -> Source:
    return open_source(shutil.copytree(tiny_run, tmp_path / "run"))


def model_bits(folder: Path) -> bytes:
    return (folder / "model.safetensors").read_bytes()


def test_it_is_the_federation_without_the_forgotten(copied: Source) -> None:
    left = copied.data.without(parse_forget(FORGOTTEN, copied.data, 0).rows)
    oracle = retrained(copied, left, 0, "oracles")
    simulation = Simulation(copied.config, data=left)
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(copied.config.rounds):
        simulation.step(state, engine)
        assert 2 not in engine.cohort  # a client that lost all its data is never sampled
    kept = load_model(oracle.folder / "model.safetensors")
    assert all(torch.equal(value, state.tensors[name]) for name, value in kept.items())
    assert oracle.seconds > 0


def test_without_anything_forgotten_it_is_the_original(copied: Source) -> None:
    again = retrained(copied, copied.data, copied.config.seed, "originals")
    assert model_bits(again.folder) == model_bits(copied.folder.path)


def test_it_does_not_start_ray_because_the_run_was_on_ray(copied: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.engine.ray_cluster.start", None)
    engine = copied.config.engine.model_copy(update={"name": "ray"})
    source = dataclasses.replace(copied, config=copied.config.model_copy(update={"engine": engine}))
    again = retrained(source, source.data, source.config.seed, "originals")
    assert model_bits(again.folder) == model_bits(copied.folder.path)


def test_it_is_cached_by_content(copied: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    left = copied.data.without(copied.data.partition[2])
    first = retrained(copied, left, 0, "oracles")
    monkeypatch.setattr("unlearning.pipeline.oracle.begin_or_resume", None)
    same_rows = copied.data.without(parse_forget("clients=2", copied.data, 5).rows)
    assert retrained(copied, same_rows, 0, "oracles").folder == first.folder
    hashes = {
        recipe_hash(copied.config, left),
        recipe_hash(copied.config, copied.data),
        recipe_hash(copied.config.model_copy(update={"seed": 1}), left),
        recipe_hash(copied.config.model_copy(update={"rounds": 4}), left),
    }
    assert len(hashes) == 4
    elsewhere = copied.config.model_copy(update={"out": Path("other"), "name": "other"})
    assert recipe_hash(elsewhere, left) in hashes


def test_an_interrupted_one_goes_on_to_the_same_bits(copied: Source, tiny_run: Path, tmp_path: Path) -> None:
    left = copied.data.without(copied.data.partition[2])
    whole = retrained(open_source(shutil.copytree(tiny_run, tmp_path / "other")), left, 0, "oracles")

    class Impatient(QuietProgress):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            if server_round == 2:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt, match="the same command continues"):
        retrained(copied, left, 0, "oracles", Impatient())
    folder = copied.folder.path / "unlearned" / "oracles" / whole.folder.name
    assert json.loads((folder / "summary.json").read_text())["status"] == "stopped"
    rounds: list[int] = []

    class Watch(QuietProgress):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            rounds.append(server_round)

    retrained(copied, left, 0, "oracles", Watch())
    assert rounds == [3]
    assert model_bits(folder) == model_bits(whole.folder)


def test_two_processes_do_not_train_the_same_one(copied: Source) -> None:
    left = copied.data.without(copied.data.partition[2])
    seen = []

    class Meddler(QuietProgress):
        def round_done(self, server_round: int, metrics: dict[str, float]) -> None:
            program = (
                "import sys; from pathlib import Path; from unlearning.pipeline.source import open_source; "
                "from unlearning.pipeline.oracle import retrained; source = open_source(Path(sys.argv[1])); "
                "retrained(source, source.data.without(source.data.partition[2]), 0, 'oracles')"
            )
            if server_round == 1:
                call = [sys.executable, "-c", program, copied.folder.path]
                seen.append(subprocess.run(call, capture_output=True, text=True, check=False).stderr)

    oracle = retrained(copied, left, 0, "oracles", Meddler())
    assert seen[0].splitlines()[-1] == (
        f"fedsim.errors.InUse: {oracle.folder}: another process is at work on this run; wait for it or stop it"
    )


def test_a_run_that_is_worked_on_is_neither_resumed_nor_replaced(copied: Source) -> None:
    run = copied.folder.path
    again = {"name": run.name, "out": str(run.parent)}
    with held(run):
        with pytest.raises(InUse, match="another process is at work on this run; wait for it or stop it"):
            resume(run)
        with pytest.raises(InUse):
            fedsim.run(again, force=True)
    assert model_bits(resume(run).folder)  # and then it is free


def test_it_is_not_resumed_with_the_data_it_must_not_see(copied: Source) -> None:
    left = copied.data.without(copied.data.partition[2])
    oracle = retrained(copied, left, 0, "oracles")
    with pytest.raises(FedsimError, match="not what this run was trained on"):
        resume(oracle.folder)


def test_a_damaged_one_is_refused(copied: Source) -> None:
    left = copied.data.without(copied.data.partition[2])
    oracle = retrained(copied, left, 0, "oracles")
    shutil.copy(copied.folder.path / "model.safetensors", oracle.folder)
    with pytest.raises(FedsimError, match=r"no oracle \(.*its hash differs.*\); remove .* to train it anew"):
        retrained(copied, left, 0, "oracles")


def test_the_recipe_is_the_resolved_one(copied: Source) -> None:
    """What auto once chose holds for the oracle too: its sums are in the same order."""
    assert copied.config == resolve(copied.folder.config)
    assert copied.config.training.chunk is not None


def test_a_folder_is_named_by_the_request_without_its_accents(tmp_path: Path) -> None:
    with reserved(tmp_path, None, "finetune client=Klinikum Köln", force=False) as folder:
        assert folder.name == "finetune-client-Klinikum-Koln"
