"""The privacy guarantees of a run after its model has been unlearned."""

import math
from pathlib import Path
from typing import Any

import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.privacy.accountant import Gaussian, epsilon
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger
from unlearning.api.registry import load_unlearning
from unlearning.pipeline.privacy import breach
from unlearning.pipeline.runner import unlearn

TINY = {
    "clients": 4, "rounds": 2, "eval_every": 100, "model": {"name": "mlp", "hidden": [16]}, "seed": 1,
    "data": {"max_per_class": 12, "partition": "iid"},
    "training": {"epochs": 1, "batch_size": 99, "vectorize": "never", "chunk": 9},
}  # fmt: skip
EXAMPLE = {"example": {"noise_multiplier": 1.0, "delta": 1e-3}}
CLIENT = {"client": {"noise_multiplier": 1.0, "delta": 1e-3}}


def finished(folder: Path, privacy: dict[str, Any], **changes: Any) -> Path:
    return fedsim.run({**TINY, "out": str(folder), "name": "run", "privacy": privacy}, overrides=changes).folder


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a run with example-level privacy that keeps what clients sent."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return finished(tmp_path_factory.mktemp("runs"), EXAMPLE, **{"history.keep": "updates"})


def test_a_method_that_trains_on_raw_samples_is_refused_until_it_is_meant(private: Path, cli: Any) -> None:
    line = "--method neggrad: neggrad learns from samples without noise, and the run promises privacy of examples"
    outcome = cli("unlearn", private, "--method=neggrad", "--forget=client=2", "--name=meant")
    assert (outcome.code, outcome.err.count("\n")) == (2, 1)
    assert line in outcome.err
    assert "--no-privacy" in outcome.err
    assert not (private / "unlearned").exists()
    assert cli("unlearn", private, "--method=neggrad", "--forget=client=2", "--name=meant", "--no-privacy").code == 0
    ledger = Ledger.read(private / "unlearned" / "meant")
    assert {row.epsilon for row in guarantees(ledger)} == {math.inf}
    shown = cli("privacy", private / "unlearned" / "meant").out
    assert "infinity" in shown
    assert "unlearning by" in shown
    assert "epsilon is infinite from here" in shown


def test_methods_of_the_federation_spend_more_of_the_same(private: Path) -> None:
    inherited = Ledger.read(private)
    outcome = unlearn(private, ["federaser"], "client=2")
    assert set(outcome.ledgers) == {"federaser"}  # the baseline would end the guarantee, and was left out
    assert any("finetune learns from samples without noise" in note for note in outcome.comparison.notes)
    ledger = Ledger.read(outcome.folder)
    assert ledger.parts[0] == inherited
    since = ledger.parts[1]
    assert since.took_part[2] == 0
    assert min(since.took_part[:2]) > 0
    before, after = (guarantees(book, with_replaced=False)[0].epsilon for book in (inherited, ledger))
    assert before < after < math.inf


def test_what_uses_released_updates_alone_costs_nothing(private: Path) -> None:
    outcome = unlearn(private, ["fedaccum"], "client=2")
    assert Ledger.read(outcome.folder) == Ledger.read(private)


def test_client_level_privacy_survives_rounds_of_the_recipe(tmp_path: Path) -> None:
    run = finished(tmp_path, CLIENT)
    outcome = unlearn(run, ["not_federated"], "client=2", overrides={"rounds": 3})
    (row,) = guarantees(Ledger.read(outcome.folder), with_replaced=False)
    assert row.epsilon == epsilon([Gaussian(1.0, 1.0, 2 + 3)], 1e-3).epsilon
    with pytest.raises(FedsimError, match="the run promises privacy of clients"):
        unlearn(run, ["finetune"], "client=2")


def test_a_run_without_promises_goes_on_as_it_did(tmp_path: Path) -> None:
    plain = Ledger.read(finished(tmp_path, {}))
    assert breach(load_unlearning("finetune"), plain) is None
    assert breach(load_unlearning("finetune"), None) is None
