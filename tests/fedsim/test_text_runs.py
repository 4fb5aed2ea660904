"""Next-character prediction goes through all that images and tables go through."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

import fedsim
from fedsim.config.resolve import resolve
from fedsim.data.play import play
from fedsim.data.text import passages_of
from fedsim.data.text_config import TextConfig
from fedsim.errors import FedsimError
from fedsim.runs.checkpoint import load_latest
from fedsim.runs.simulation import Simulation
from tests.tiny_runs import Cli

MODELS = {"lstm": {"width": 16, "depth": 1}, "transformer": {"width": 16, "depth": 1, "heads": 2}}
BASE = {
    "strategy": "fedavg", "rounds": 2, "name": "text",
    "data": {"name": "play", "text": {"length": 6, "stride": 120}},
    "training": {"epochs": 1, "batch_size": 32, "lr": 1.0, "vectorize": "always"},
    "engine": {"name": "inprocess"},
}  # fmt: skip
each_model = pytest.mark.parametrize("name", MODELS)
KEYS = {f"model.{key}": value for key, value in MODELS["lstm"].items()} | {"model.name": "lstm"}


def advanced(changes, rounds=2):
    simulation = Simulation(resolve(BASE, changes))
    engine = simulation.engine()
    state = simulation.begin()
    metrics = {}
    for _ in range(rounds):
        metrics = simulation.step(state, engine)
    return simulation, engine, state, metrics


@each_model
def test_clients_at_once_come_to_what_they_do_one_by_one(name):
    model = {"model": {"name": name, **MODELS[name]}}
    (*_, together, _), (*_, one_by_one, _) = (
        advanced(model | {"training.vectorize": how}) for how in ("always", "never")
    )
    for key, value in one_by_one.tensors.items():
        torch.testing.assert_close(together.tensors[key], value, rtol=1e-4, atol=1e-5)


@each_model
def test_example_level_privacy_is_the_same_both_ways(name):
    changes = {"model": {"name": name, **MODELS[name]}, "privacy.example.noise_multiplier": 1.0, "rounds": 1}
    (*_, together, _), (*_, one_by_one, _) = (
        advanced(changes | {"training.vectorize": how}, 1) for how in ("always", "never")
    )
    for key, value in one_by_one.tensors.items():
        torch.testing.assert_close(together.tensors[key], value, rtol=1e-3, atol=1e-4)


def test_a_run_goes_on_to_the_same_bits(tmp_path: Path):
    *_, whole, metrics = advanced(KEYS)
    simulation, engine, state, _ = advanced(KEYS, 1)
    simulation.checkpoint(state, engine).save(tmp_path)
    again = Simulation(resolve(BASE, KEYS))
    resumed = again.restore(load_latest(tmp_path), again.engine())
    assert again.step(resumed, again.engine())["global/perplexity"] == metrics["global/perplexity"]
    assert all(torch.equal(value, resumed.tensors[key]) for key, value in whole.tensors.items())
    assert metrics["global/perplexity"] == pytest.approx(math.exp(metrics["global/loss"]))
    assert "global/auc" not in metrics


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return fedsim.run(BASE, overrides={**KEYS, "out": str(tmp_path_factory.mktemp("runs"))}).folder


def test_the_model_predicts_what_follows_a_text_without_data(run: Path):
    model = fedsim.load_model(run)
    speaker = passages_of(play(), TextConfig())[0][3].text
    names = model.predict_names([speaker[:6], speaker[:200], "\N{SNOWMAN}", ""])
    assert set(names) <= set(model.description.class_names)
    assert model.predict([speaker[:200]]) == model.predict([speaker[194:200]])
    codes = np.zeros((2, 6), np.int64)
    assert model.outputs(codes).shape == (2, len(model.description.class_names))
    with pytest.raises(FedsimError, match=r"takes arrays of shape \(N, 6,\)"):
        model.predict(codes[:, :5])


def test_a_text_of_another_alphabet_can_be_evaluated(run: Path, cli: Cli, tmp_path: Path):
    own = cli("evaluate", run)
    assert (own.code, own.err) == (0, "")
    assert "Perplexity" in own.out
    file = tmp_path / "other.txt"
    file.write_text("Zounds, quoth the fox: \xe4\xf6\xfc! " * 30, encoding="utf-8")
    other = cli("evaluate", run, f"--dataset=text:{file}")
    assert (other.code, other.err) == (0, "")
    exported = tmp_path / "model.safetensors"
    assert cli("export", run, f"--out={exported}").code == 0
    refused = cli("evaluate", exported, f"--dataset=text:{file}", "--set=data.partition=iid")
    assert refused.code == 2
    assert refused.err.strip().endswith("--set data.text.length=6")
    told = cli(
        "evaluate",
        exported,
        f"--dataset=text:{file}",
        "--set=data.partition=iid",
        "--set=data.text.length=6",
        "--set=data.text.stride=120",
    )
    assert told.out.splitlines()[1:] == other.out.splitlines()[1:]


@pytest.mark.slow
@pytest.mark.parametrize(("method", "spec"), [("neggrad_plus", "client=Piper"), ("finetune", "class=comma")])
def test_a_speaker_is_forgotten(run: Path, cli: Cli, method: str, spec: str):
    done = cli("unlearn", run, f"--method={method}", f"--forget={spec}")
    assert (done.code, done.err) == (0, "")


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (
            ["--dataset=play", "--model=mlp"],
            "model.name: mlp reads numbers, and play is a text; use lstm or transformer",
        ),
        (["--model=lstm"], "model.name: lstm reads text, and digits is none; use mlp or cnn"),
        (
            ["--dataset=play", "--strategy=fixmatch", *[f"--set={key}={value}" for key, value in KEYS.items()]],
            "strategy.name: fixmatch augments its samples, and a text cannot be; try fedavg",
        ),
        (
            ["--dataset=play", "--strategy=pefll", *[f"--set={key}={value}" for key, value in KEYS.items()]],
            "strategy.embedding: a network describes images and rows, and play is a text; use histogram",
        ),
        (
            ["--dataset=play", "--set=data.augment=crop"],
            "data.augment: crop is for images, and play has none; use none",
        ),
    ],
)
def test_what_does_not_fit_a_text_is_refused_in_one_line(cli: Cli, tmp_path: Path, flags: list[str], message: str):
    done = cli("run", *flags, "--rounds=1", f"--out={tmp_path}")
    assert (done.code, done.err.strip()) == (2, f"error: {message}")
    assert not list(tmp_path.iterdir())
