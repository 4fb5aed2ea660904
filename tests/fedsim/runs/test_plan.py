"""What a dry run promises is what a run does."""

from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

import fedsim
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger
from fedsim.runs.plan import plan
from tests.tiny_runs import TINY, Cli

PRIVATE = {
    "clients": 8, "cohort": 4, "rounds": 3, "model": "mlp", "training.vectorize": "always",
    "privacy.client.noise_multiplier": 1.0, "privacy.client.delta": 1e-3,
}  # fmt: skip


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("config", [{**TINY, "clients_unseen": 1}, PRIVATE])
def test_a_plan_is_what_the_run_does(config: dict[str, object], tmp_path: Path) -> None:
    promised = plan(config)
    result = fedsim.run(config, overrides={"out": str(tmp_path)})
    assert promised.config.model_dump(exclude={"out"}) == result.config.model_dump(exclude={"out"})
    counts = np.load(result.folder / "partition.npz")["label_counts"]
    assert list(promised.samples) == counts.sum(1).tolist()
    sent = sum(value.numel() for value in load_file(result.folder / "model.safetensors").values())
    assert promised.parameters == sent
    assert promised.bytes_down >= 4 * sent * result.config.cohort_size
    spent = guarantees(Ledger.read(result.folder), with_replaced=False)
    assert [(row.unit, row.epsilon) for row in promised.guarantees] == [(row.unit, row.epsilon) for row in spent]
    assert promised.seconds > 0
    assert promised.memory_bytes > 1e8


def test_nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("run", "--dry-run", "--strategy=fedprox", "--model=mlp", "--set=training.vectorize=never")
    assert (done.code, done.err) == (0, "")
    assert "fedprox on digits, 20 rounds, seed 0" in done.out
    assert "nothing is protected" in done.out
    assert not list(tmp_path.iterdir())
    assert "leave out --dry-run" in cli("run", "--dry-run", "--resume", tmp_path).err
    assert cli("run", "--dry-run", "--clients=0").code == 2
