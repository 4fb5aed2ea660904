"""Users' files run if the user has named them with this content, and in every process of a run."""

from __future__ import annotations

from pathlib import Path

import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.models.config import ModelConfig
from tests.page_files import FILES
from tests.tiny_runs import Cli


def test_a_run_finds_its_file_again_and_says_when_it_is_gone_or_changed(page_folder: Path, cli: Cli) -> None:
    run = page_folder / "runs" / "own"
    options = ["--clients=4", "--rounds=1", "--set=training.epochs=1", "--quiet"]
    assert cli("run", "--strategy=./entropy.py:entropy", "--name=own", *options).code == 0
    config = (run / "config.yaml").read_text()
    assert f"name: {page_folder}/entropy.py:entropy" in config
    assert cli("run", f"--config={run}", "--name=again", "--quiet").code == 0
    assert (run / "model.safetensors").read_bytes() == (
        page_folder / "runs" / "again" / "model.safetensors"
    ).read_bytes()
    unlearn = ["unlearn", run, "--method=finetune", "--forget=client=1", "--set=finetune.epochs=1", "--quiet"]
    assert cli(*unlearn).code == 0
    (page_folder / "entropy.py").write_text(FILES["entropy.py"] + "\n")
    for command in (["run", "--resume", run], unlearn, ["run", f"--config={run}", "--name=third"]):
        done = cli(*command)
        assert (done.code, done.err.count("\n")) == (2, 1)
        assert "entropy.py has changed since you named it; restore it" in done.err
    (page_folder / "entropy.py").unlink()
    done = cli(*unlearn)
    assert (done.code, "entropy.py cannot be read" in done.err) == (2, True)


def test_a_configuration_cannot_make_a_file_run_that_its_reader_has_not_named(
    page_folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of somebody who sends a configuration and a file beside it."""
    (page_folder / "evil.py").write_text("raise SystemExit('it ran')\n")
    for section, line in (("strategy", "strategy: ./evil.py"), ("model", "model: ./evil.py"),
                          ("data", "data: {name: ./evil.py}"), ("partition", "data: {partition: ./evil.py}"),
                          ("metric", "metrics: ./evil.py"), ("engine", "engine: {name: ./evil.py}")):  # fmt: skip
        (page_folder / "sent.yaml").write_text(f"{line}\n")
        done = cli("run", "--config=sent.yaml", "--quiet")
        option = "dataset" if section == "data" else section
        assert done.code == 2
        assert (
            f"evil.py is a file that you have not named yourself, and it would be run; if you trust it, add --{option}"
            in (done.err)
        )
    (page_folder / "sent.yaml").write_text("strategy: ./entropy.py\nclients: 4\nrounds: 1\n")
    assert cli("run", "--config=sent.yaml", "--quiet").code == 2
    assert cli("run", "--config=sent.yaml", "--strategy=./entropy.py", "--name=named", "--quiet").code == 0
    monkeypatch.setattr("fedsim.plugins._named", {})  # as in a later process, which reads what was remembered
    assert cli("run", "--config=sent.yaml", "--name=again", "--quiet").code == 0


def test_a_model_that_is_sent_cannot_make_a_file_run(page_folder: Path, cli: Cli) -> None:
    """Its description names a file; to load, export or evaluate it is no consent."""
    assert cli("run", "--model=mlp", "--clients=4", "--rounds=1", "--name=sent", "--quiet").code == 0
    (page_folder / "evil.py").write_text("raise SystemExit('it ran')\n")
    description = page_folder / "runs" / "sent" / "model.json"
    told = fedsim.load_model(page_folder / "runs" / "sent").description
    own = told.model_copy(update={"model": ModelConfig(name=f"{page_folder}/evil.py:Net")})
    description.write_text(own.model_dump_json(indent=1))
    with pytest.raises(FedsimError, match=r"evil\.py is a file that you have not named yourself"):
        fedsim.load_model(page_folder / "runs" / "sent")
    done = cli("export", page_folder / "runs" / "sent")
    assert (done.code, "evil.py is a file that you have not named yourself" in done.err) == (2, True)


def test_nothing_in_a_run_folder_is_run(page_folder: Path, cli: Cli) -> None:
    inside = page_folder / "somebody" / "code"
    inside.mkdir(parents=True)
    (page_folder / "somebody" / "config.yaml").write_text("strategy: fedavg\n")
    (inside / "evil.py").write_text("raise SystemExit('it ran')\n")
    done = cli("run", f"--strategy={inside / 'evil.py'}", "--quiet")
    assert done.code == 2
    assert (
        f"is in the run folder {page_folder / 'somebody'}, and files there are not run; copy it out, or add" in done.err
    )


def test_a_file_in_a_run_folder_is_executed_with_trust(
    page_folder: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    (page_folder / "somebody").mkdir()
    (page_folder / "somebody" / "config.yaml").write_text("strategy: fedavg\n")
    inside = page_folder / "somebody" / "entropy.py"
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
        ("", "registers nothing that is a strategy"),
        ("1 / 0", "cannot be loaded (ZeroDivisionError: division by zero)"),
        (FILES["entropy.py"].replace('strategy("entropy"', 'strategy("fedavg"'), "'fedavg', a built-in name of fedsim"),
        (FILES["entropy.py"].replace('"entropy"', '"one"') + "\n" +
         'strategy("two", EntropyConfig, EntropyClient, Server)\n', "choose one: own.py:one, own.py:two"),
    ],
)  # fmt: skip
def test_files_that_do_not_do_are_one_line(page_folder: Path, cli: Cli, text: str, says: str) -> None:
    (page_folder / "own.py").write_text(text)
    done = cli("run", "--strategy=./own.py", "--quiet")
    assert (done.code, done.err.count("\n"), says in done.err) == (2, 1, True), done.err
    assert not (page_folder / "runs").exists()


@pytest.mark.ray
@pytest.mark.slow
def test_ray_workers_find_the_file_too(page_folder: Path, cli: Cli) -> None:
    pytest.importorskip("ray")
    options = ["--strategy=./entropy.py", "--model=./net.py", "--clients=4", "--rounds=1", "--quiet"]
    assert cli("run", *options, "--name=here").code == 0
    done = cli("run", *options, "--name=there", "--engine=ray", "--set=engine.num_workers=1")
    assert (done.code, done.err) == (0, "")
    here, there = (page_folder / "runs" / name / "model.safetensors" for name in ("here", "there"))
    assert here.read_bytes() == there.read_bytes()
