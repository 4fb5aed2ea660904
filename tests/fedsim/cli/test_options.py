"""`fedsim options` and `fedsim init` on the command line, and what a shell completes."""

from tests.tiny_runs import Cli


def test_pages(cli: Cli) -> None:
    assert "strategy.mu  0.01     number >= 0  Pull to the global model" in cli("options", "strategy", "fedprox").out
    assert "ssd.dampening" in cli("options", "unlearning", "ssd").out
    assert "training.momentum=0.5" in cli("options", "strategy", "fedloge").out
    assert "data.partition.alpha" in cli("options", "partition", "dirichlet").out
    assert cli("options", "trainin").err.startswith("error: options trainin: no such section; did you mean 'training'?")
    assert "did you mean 'ssd'" in cli("options", "unlearning", "ssdd").err
