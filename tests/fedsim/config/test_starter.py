"""A file to begin with says what holds anyway."""

from pathlib import Path

import pytest
import yaml

from fedsim.config.resolve import find_config, resolve
from fedsim.config.starter import starter
from fedsim.federated.registry import describe


@pytest.mark.parametrize("name", sorted(describe("strategies")))
def test_it_changes_nothing(name: str, tmp_path: Path) -> None:
    text = starter(name, "fedsim run --config a.yaml")
    (tmp_path / "a.yaml").write_text(text)
    written = resolve(find_config(str(tmp_path / "a.yaml")))
    assert written.model_dump() == resolve({"strategy": name}).model_dump()
    assert all(len(line) <= 120 for line in text.splitlines())


def test_it_shows_the_methods_own_options_first_and_what_its_runs_begin_with() -> None:
    lines = [line for line in starter("fedloge", "RUN").splitlines() if not line.lstrip().startswith("#")]
    content = yaml.safe_load("\n".join(lines))
    assert next(iter(content)) == "strategy"
    assert content["strategy"]["sparsity"] == 0.6
    assert content["training"]["epochs"] == 5
    assert content["data"]["imbalance_factor"] == 0.1
