import re
import subprocess
import sys
from pathlib import Path

import pytest
import typer

import fedsim
from fedsim.cli.main import app
from tests.tiny_runs import TINY_FLAGS, Cli

# Help and lists ------------------------------------------------------------------------------------------------------


def test_version(cli: Cli) -> None:
    assert cli("--version") == (0, f"fedsim {fedsim.__version__}\n", "")


def test_help_without_arguments(cli: Cli) -> None:
    assert cli() == cli("--help") == cli("-h")
    outcome = cli()
    assert (outcome.code, outcome.err) == (0, "")
    for command in ("run", "list", "show", "report"):
        assert re.search(rf"^  {command} +\S", outcome.out, re.MULTILINE)


def test_everything_on_the_command_line_is_described(cli: Cli) -> None:
    for name, command in typer.main.get_command(app).commands.items():  # type: ignore[attr-defined]
        outcome = cli(name, "--help")
        assert outcome.code == 0
        assert command.help
        assert command.help.endswith(".")
        for parameter in command.params:
            if parameter.param_type_name == "argument":  # whose own help text newer versions of click lose
                assert parameter.name.upper() in command.help
            else:
                assert parameter.help.endswith("."), f"{name} {parameter.name}: {parameter.help}"
        assert all(len(line) <= 80 for line in outcome.out.splitlines())


def test_help_and_import_need_no_torch() -> None:
    code = (
        "import sys, fedsim\nfrom fedsim.cli.main import main\n"
        "try:\n    main(['run', '--help'])\nexcept SystemExit:\n    pass\n"
        "heavy = {'torch', 'numpy', 'pydantic', 'flwr', 'ray', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# A run and its folder ------------------------------------------------------------------------------------------------


def test_a_name_is_found_where_none_is_given(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_pictures: None
) -> None:
    monkeypatch.setattr("fedsim.runs.new_folder.time.strftime", lambda form: "20260101-000000")
    flags = [flag for flag in TINY_FLAGS if not flag.startswith("--name")]
    names = [cli("run", *flags, "--rounds=1", "--quiet", "--out", tmp_path).out.strip() for _ in range(3)]
    stem = f"{tmp_path}/fedavg-digits-20260101-000000"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]


# A process of its own ------------------------------------------------------------------------------------------------


def test_a_reader_that_leaves_early_is_no_error() -> None:
    done = subprocess.run(f"{sys.executable} -m fedsim list | head -n 1", shell=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("strategies\n", "")
