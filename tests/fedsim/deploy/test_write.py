from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.fedsim.deploy.federations import SMALL
from tests.tiny_runs import Cli


def test_an_app_is_a_folder_of_files_one_of_which_is_to_be_filled_in(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    outcome = cli("flower-app", tiny_run, tmp_path / "app")
    assert outcome.code == 0
    assert "data.py" in outcome.out
    package = tmp_path / "app" / "federation"
    assert sorted(path.name for path in package.iterdir()) == [
        "__init__.py", "client.py", "config.yaml", "data.py", "samples.json", "server.py",
    ]  # fmt: skip
    assert yaml.safe_load((package / "config.yaml").read_text())["clients"] == 6
    again = cli("flower-app", tiny_run, tmp_path / "app")
    assert (again.code, "exists already" in again.err) == (2, True)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"faults": {"error": 0.5}}, "faults: faults are simulated only"),
        ({"privacy": {"client": {"noise_multiplier": 1.0}}}, "privacy.noise: must be secure"),
        ({"clients_unseen": 1}, "clients_unseen: every node takes part"),
        ({"strategy": {"name": "fedld", "loss_parts": True}}, "its server reads the clients' data"),
        (
            {"privacy": {"noise": "secure", "example": {"target_epsilon": 3.0}}},
            "privacy.example.target_epsilon: nodes do not know",
        ),
    ],
)
def test_what_only_a_simulation_has_is_refused(cli: Cli, tmp_path: Path, more: dict[str, Any], told: str) -> None:
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({**SMALL, **more}))
    outcome = cli("flower-app", tmp_path / "config.yaml", tmp_path / "app")
    assert outcome.code == 2
    assert told in outcome.err
    assert not (tmp_path / "app").exists()
