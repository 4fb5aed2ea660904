"""Names that a shell completes."""

import pytest

from tests.tiny_runs import Cli


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("run --strategy fedp", "fedprox"),
        ("run --config dp_", "dp_fedavg_digits"),
        ("run --dataset cs", "csv:"),
        ("run --model resnet1", "resnet18"),
        ("run --partition dir", "dirichlet"),
        ("unlearn x --method scr", "scrub"),
        ("options str", "strategy"),
    ],
)
def test_a_shell_completes_names(typed: str, offered: str, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_FEDSIM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", f"fedsim {typed}")
    monkeypatch.setenv("COMP_CWORD", str(len(typed.split())))
    assert offered in cli().out.split()
