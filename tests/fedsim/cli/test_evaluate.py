"""What `fedsim evaluate` refuses is one line."""

from pathlib import Path

import pytest

import fedsim
from fedsim.errors import FedsimError
from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((None,), "is a model without its run, so name the data: dataset"),
        (("fashionmnis",), "no dataset 'fashionmnis'; did you mean 'fashionmnist'"),
        (("breast_cancer",), r"has inputs of shape \(30,\), and the model takes \(1, 8, 8\)"),
    ],
)
def test_what_does_not_fit_is_one_line(
    arguments: tuple[str], says: str, tiny_run: Path, tmp_path: Path, cli: Cli
) -> None:
    assert cli("export", tiny_run, "--out", tmp_path / "m.safetensors").code == 0
    with pytest.raises(FedsimError, match=says):
        fedsim.evaluate(tmp_path / "m.safetensors", *arguments)
