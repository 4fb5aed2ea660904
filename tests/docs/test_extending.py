"""The page on extending, followed to the letter in an empty folder; and what becomes of files that go or change."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.models.config import ModelConfig
from tests.tiny_runs import Cli

PAGE = (Path(__file__).parents[2] / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r'```python title="(\w+\.py)"\n(.*?)```', PAGE, re.DOTALL))
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None) -> Path:
    """Return an empty folder with the page's files, the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / ".config"))
    monkeypatch.setattr("fedsim.plugins._named", {})
    for name, text in FILES.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "strategies").mkdir()  # a folder of this name hides nothing
    return tmp_path


def test_every_command_of_the_page(folder: Path, cli: Cli) -> None:
    assert set(FILES) == {"entropy.py", "shrink.py", "net.py", "waves.py", "cut.py", "top.py", "timed.py", "sure.py"}
    assert len(COMMANDS) == 8
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        done = cli(*arguments, "--quiet")
        assert (program, done.code, done.err) == ("fedsim", 0, ""), (command, done.err)
    for name in ("own", "mine", "waves"):
        assert fedsim.load_model(folder / "runs" / name).description.outputs == (2 if name == "waves" else 10)
    counts = np.load(folder / "runs" / "halves" / "partition.npz")["label_counts"]
    assert not (counts[:2, 5:].any())
    assert not (counts[2:, :4].any())
    top = fedsim.compare(folder / "runs" / "top", metrics=["global/top2", "global/accuracy"]).iloc[0]
    assert 1 >= top["global/top2"] > top["global/accuracy"]
    measured = folder / "runs" / "mine" / "unlearned" / "measured"
    comparison = json.loads((measured / "comparison.json").read_text())
    sentence = "By how much more of the forgotten samples than of never-seen ones the class is named"
    assert all("surer" in row["metrics"] for row in comparison["rows"])
    assert comparison["own_metrics"] == {"surer": sentence}
    assert f'<th scope="col" title="{sentence}; best near' in (measured / "report.html").read_text()
    shown = cli("show", folder / "runs" / "top").out
    assert "Share of test samples whose class is among the two that are thought likeliest" in shown
    assert fedsim.load_run_model(folder / "runs" / "mine").feature_dim == 16


def test_an_engine_of_ones_own_comes_to_the_same_bits(folder: Path, cli: Cli) -> None:
    options = ["--clients=4", "--rounds=2", "--model=mlp", "--set=training.chunk=3", "--quiet"]
    done = cli("run", "--engine=./timed.py", "--name=timed", *options)
    assert (done.code, done.err) == (0, "")
    assert [line.split(" in ")[0] for line in done.out.splitlines()[:2]] == ["round 1: 2 chunks", "round 2: 2 chunks"]
    assert cli("run", "--engine=inprocess", "--name=plain", *options).code == 0
    timed, plain = (folder / "runs" / name / "model.safetensors" for name in ("timed", "plain"))
    assert timed.read_bytes() == plain.read_bytes()
    assert f"name: {folder}/timed.py" in (folder / "runs" / "timed" / "config.yaml").read_text()
    assert cli("run", "--resume", folder / "runs" / "timed", "--rounds=3", "--quiet").code == 0


def test_a_run_finds_its_file_again_and_says_when_it_is_gone_or_changed(folder: Path, cli: Cli) -> None:
    run = folder / "runs" / "own"
    options = ["--clients=4", "--rounds=1", "--set=training.epochs=1", "--quiet"]
    assert cli("run", "--strategy=./entropy.py:entropy", "--name=own", *options).code == 0
    config = (run / "config.yaml").read_text()
    assert f"name: {folder}/entropy.py:entropy" in config
    assert cli("run", f"--config={run}", "--name=again", "--quiet").code == 0
    assert (run / "model.safetensors").read_bytes() == (folder / "runs" / "again" / "model.safetensors").read_bytes()
    unlearn = ["unlearn", run, "--method=finetune", "--forget=client=1", "--set=finetune.epochs=1", "--quiet"]
    assert cli(*unlearn).code == 0
    (folder / "entropy.py").write_text(FILES["entropy.py"] + "\n")
    for command in (["run", "--resume", run], unlearn, ["run", f"--config={run}", "--name=third"]):
        done = cli(*command)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "entropy.py has changed since you named it; restore it" in done.err
    (folder / "entropy.py").unlink()
    done = cli(*unlearn)
    assert (done.code, "entropy.py cannot be read" in done.err) == (2, True)


def test_the_strategy_without_its_term_is_fedavg(folder: Path) -> None:
    # By measurement either might be trained at once, which rounds otherwise.
    tiny = {"clients": 4, "rounds": 1, "model": "mlp", "training": {"epochs": 1, "vectorize": "always"}}
    plain, zero, some = (
        fedsim.run({**tiny, "strategy": strategy, "name": name})
        for name, strategy in (
            ("a", "fedavg"), ("b", {"name": "./entropy.py", "beta": 0}), ("c", {"name": "./entropy.py"}),
        )
    )  # fmt: skip
    state = plain.model.state_dict()
    assert all(state[name].equal(value) for name, value in zero.model.state_dict().items())
    assert any(not state[name].equal(value) for name, value in some.model.state_dict().items())
    assert 0 < some.final["train/entropy"] < 2.4  # log(10) is 2.3


def test_a_configuration_cannot_make_a_file_run_that_its_reader_has_not_named(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of somebody who sends a configuration and a file beside it."""
    (folder / "evil.py").write_text("raise SystemExit('it ran')\n")
    for section, line in (("strategy", "strategy: ./evil.py"), ("model", "model: ./evil.py"),
                          ("data", "data: {name: ./evil.py}"), ("partition", "data: {partition: ./evil.py}"),
                          ("metric", "metrics: ./evil.py"), ("engine", "engine: {name: ./evil.py}")):  # fmt: skip
        (folder / "sent.yaml").write_text(f"{line}\n")
        done = cli("run", "--config=sent.yaml", "--quiet")
        option = "dataset" if section == "data" else section
        assert done.code == 2
        assert (
            f"evil.py is a file that you have not named yourself, and would be run; if you trust it, add --{option}"
            in (done.err)
        )
    (folder / "sent.yaml").write_text("strategy: ./entropy.py\nclients: 4\nrounds: 1\n")
    assert cli("run", "--config=sent.yaml", "--quiet").code == 2
    assert cli("run", "--config=sent.yaml", "--strategy=./entropy.py", "--name=named", "--quiet").code == 0
    monkeypatch.setattr("fedsim.plugins._named", {})  # as in a later process, which reads what was remembered
    assert cli("run", "--config=sent.yaml", "--name=again", "--quiet").code == 0


def test_a_model_that_is_sent_cannot_make_a_file_run(folder: Path, cli: Cli) -> None:
    """Its description names a file; to load, export or evaluate it is no consent."""
    assert cli("run", "--model=mlp", "--clients=4", "--rounds=1", "--name=sent", "--quiet").code == 0
    (folder / "evil.py").write_text("raise SystemExit('it ran')\n")
    description = folder / "runs" / "sent" / "model.json"
    told = fedsim.load_model(folder / "runs" / "sent").description
    own = told.model_copy(update={"model": ModelConfig(name=f"{folder}/evil.py:Net")})
    description.write_text(own.model_dump_json(indent=1))
    with pytest.raises(FedsimError, match=r"evil\.py is a file that you have not named yourself"):
        fedsim.load_model(folder / "runs" / "sent")
    done = cli("export", folder / "runs" / "sent")
    assert (done.code, "evil.py is a file that you have not named yourself" in done.err) == (2, True)


def test_nothing_in_a_run_folder_is_run(folder: Path, cli: Cli) -> None:
    inside = folder / "somebody" / "code"
    inside.mkdir(parents=True)
    (folder / "somebody" / "config.yaml").write_text("strategy: fedavg\n")
    (inside / "evil.py").write_text("raise SystemExit('it ran')\n")
    done = cli("run", f"--strategy={inside / 'evil.py'}", "--quiet")
    assert done.code == 2
    assert f"lies in the run folder {folder / 'somebody'}, of which nothing is run; copy it out, or add" in done.err


def test_a_file_in_a_run_folder_is_run_for_who_trusts_it(
    folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "somebody").mkdir()
    (folder / "somebody" / "config.yaml").write_text("strategy: fedavg\n")
    inside = folder / "somebody" / "entropy.py"
    inside.write_text(FILES["entropy.py"])
    small = ["--clients=4", "--rounds=1", "--model=mlp", "--set=training.epochs=1", "--quiet"]
    assert cli("run", f"--strategy={inside}", "--name=a", "--trust", *small).code == 0
    monkeypatch.setattr("fedsim.plugins._named", {})  # as in a later process
    assert cli("run", "--config=runs/a", "--name=b", "--quiet").code == 0
    assert cli("run", f"--strategy={inside}", "--name=c", *small).code == 0  # with the content that was trusted
    inside.write_text(FILES["entropy.py"] + "\n")
    assert "or add --trust" in cli("run", f"--strategy={inside}", "--name=d", *small).err


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("def accuracy_forget(logits, labels):\n    return 0", "--metric: accuracy_forget is a built-in metric"),
        ("def m(logits, labels):\n    return logits['nobody']", "--metric: m() fails (KeyError"),
        ("x = 1", "registers nothing that is a function of outputs and labels by role"),
    ],
)
def test_a_metric_of_forgetting_that_does_not_do_is_one_line(folder: Path, cli: Cli, text: str, says: str) -> None:
    run = ["run", "--clients=4", "--rounds=1", "--model=logistic", "--set=training.epochs=1", "--name=a", "--quiet"]
    assert cli(*run).code == 0
    (folder / "own.py").write_text(text)
    done = cli("unlearn", "runs/a", "--method=finetune", "--forget=client=1", "--metric=./own.py", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
    assert not list((folder / "runs" / "a").glob("unlearned/*"))


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "registers nothing that is a strategy"),
        ("1 / 0", "cannot be loaded (ZeroDivisionError: division by zero)"),
        (FILES["entropy.py"].replace('strategy("entropy"', 'strategy("fedavg"'), "'fedavg', a name of fedsim's own"),
        (FILES["entropy.py"].replace('"entropy"', '"one"') + "\n" +
         'strategy("two", EntropyConfig, EntropyClient, Server)\n', "say which: own.py:one, own.py:two"),
    ],
)  # fmt: skip
def test_files_that_do_not_do_are_one_line(folder: Path, cli: Cli, text: str, says: str) -> None:
    (folder / "own.py").write_text(text)
    done = cli("run", "--strategy=./own.py", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
    assert not (folder / "runs").exists()


@pytest.mark.parametrize(
    ("option", "text", "says"),
    [
        ("--partition", "def cut(labels, clients, rng):\n    return labels * 0.5", "cut() returns float64 of shape"),
        (
            "--partition",
            "def cut(labels, clients, rng):\n    return labels",
            "returns clients 0 to 9; there are 0 to 3",
        ),
        ("--partition", "def cut(labels, clients, rng):\n    return labels[7:1/0]", "cut() fails (ZeroDivisionError"),
        ("--metric", "def m(outputs, targets):\n    return 'x'", "m() fails (ValueError"),
        ("--metric", "x = 1", "registers nothing that is a function of outputs and targets"),
    ],
)
def test_cuts_and_metrics_that_do_not_do_are_one_line(
    folder: Path, cli: Cli, option: str, text: str, says: str
) -> None:
    (folder / "own.py").write_text(text)
    done = cli("run", f"{option}=./own.py", "--clients=4", "--rounds=1", "--model=mlp", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_find_the_file_too(folder: Path, cli: Cli) -> None:
    pytest.importorskip("ray")
    options = ["--strategy=./entropy.py", "--model=./net.py", "--clients=4", "--rounds=1", "--quiet"]
    assert cli("run", *options, "--name=here").code == 0
    done = cli("run", *options, "--name=there", "--engine=ray", "--set=engine.num_workers=1")
    assert (done.code, done.err) == (0, "")
    here, there = (folder / "runs" / name / "model.safetensors" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
