"""What a run has released is in its ledger, however it ended; and what is derived from it inherits that."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import yaml

import fedsim
from fedsim.engine.worker import Worker
from fedsim.errors import FedsimError
from fedsim.privacy.accountant import Gaussian, epsilon
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger
from tests.fedsim.privacy.small_runs import steps

TINY = {
    "clients": 6, "rounds": 9, "eval_every": 100, "model": {"name": "mlp", "hidden": [16]}, "name": "run",
    "data": {"max_per_class": 12}, "training": {"epochs": 1, "vectorize": "never", "chunk": 99},
    "checkpoint_every": 1000, "cohort": 3,
}  # fmt: skip
CLIENT = {"client": {"noise_multiplier": 2.0, "delta": 1e-3, "sampling": "fixed"}}


def killed_in_round(last: int, tmp_path: Path, **changes: Any) -> Path:
    """Return a run that was killed while the clients of a round trained."""
    child = os.fork()
    if child == 0:
        work, calls = Worker.run_chunk, []

        def run_chunk(self: Worker, *args: Any) -> Any:
            calls.append(args)
            if len(calls) == last:
                os.kill(os.getpid(), signal.SIGKILL)
            return work(self, *args)

        Worker.run_chunk = run_chunk  # type: ignore[method-assign]
        fedsim.run({**TINY, "out": str(tmp_path)}, overrides=changes)
        os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    return tmp_path / "run"


@pytest.mark.usefixtures("no_pictures")
def test_a_run_that_is_killed_before_a_checkpoint_has_shown_what_its_ledger_says(tmp_path, cli):
    folder = killed_in_round(7, tmp_path, privacy=CLIENT)
    assert not list(folder.glob("checkpoints/*"))
    ledger = Ledger.read(folder)
    assert (ledger.rounds, sum(ledger.took_part)) == (7, 21)
    assert guarantees(ledger)[0].epsilon == epsilon([Gaussian(1.0, 0.5, 7, fixed=True)], 1e-3).epsilon
    assert "7 rounds, 6 clients" in cli("privacy", folder).out
    # The same rounds again are the same releases; what comes after counts.
    fedsim.resume(folder)
    assert Ledger.read(folder).rounds == 9
    whole = fedsim.run({**TINY, "out": str(tmp_path), "name": "whole", "privacy": CLIENT}).folder
    assert Ledger.read(whole) == Ledger.read(folder)
    assert (whole / "model.safetensors").read_bytes() == (folder / "model.safetensors").read_bytes()


@pytest.mark.usefixtures("no_pictures")
def test_rounds_that_do_not_repeat_count_twice_and_another_recipe_is_no_second_try(tmp_path):
    folder = killed_in_round(4, tmp_path, privacy={**CLIENT, "noise": "secure"})
    fedsim.resume(folder)
    assert Ledger.read(folder).rounds == 4 + 9
    other = killed_in_round(4, tmp_path / "other", privacy=CLIENT)
    config = yaml.safe_load((other / "config.yaml").read_text())
    config["training"]["lr"] = 0.01
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    with pytest.raises(FedsimError, match=r"4 rounds of another recipe have been released.* start a new run"):
        fedsim.resume(other)


def test_a_line_that_was_being_written_is_no_release_and_nonsense_is_refused(tmp_path):
    ledger = Ledger(releases=(), took_part=[0, 0])
    ledger.save(tmp_path)
    for cohort in ([0], [1]):
        ledger.add_round(cohort)
        ledger.journal(tmp_path, cohort)
    journal = tmp_path / "privacy.jsonl"
    text = journal.read_text()
    journal.write_text(text[:-4])
    assert Ledger.read(tmp_path).took_part == [1, 0]
    journal.write_text(text)
    assert Ledger.read(tmp_path) == ledger
    ledger.save(tmp_path)
    journal.write_text(text)  # killed between the two
    assert Ledger.read(tmp_path) == ledger
    journal.write_text('{"rounds": 9, "cohort": [7]}\n')
    with pytest.raises(FedsimError, match=r"privacy\.jsonl: line 1 is malformed"):
        Ledger.read(tmp_path)


# Derived models ------------------------------------------------------------------------------------------------------


def test_a_derived_model_has_cost_what_it_inherits_and_what_was_spent_since():
    run = Ledger(releases=(steps(sampling_rate=1.0),), rounds=4, took_part=[4, 2])
    assert run.then() == run
    since = run.model_copy(update={"rounds": 5, "took_part": [0, 5]})
    both = run.then(since)
    assert guarantees(both)[0].epsilon == epsilon([Gaussian(2.0, 1.0, 7)], 1e-5).epsilon  # of client 1
    assert guarantees(both)[0].client == 1
    again = both.then(since)
    assert [part.rounds for part in again.parts] == [4, 5, 5]
    assert Ledger.model_validate_json(again.model_dump_json()) == again
