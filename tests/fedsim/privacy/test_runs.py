"""Whole runs: the ledger in the folder, what `fedsim privacy` makes of it, and resuming."""

import json
import math

import numpy as np
import pytest
import yaml

import fedsim
from fedsim.config.resolve import resolve
from fedsim.privacy.accountant import Gaussian, epsilon
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger
from fedsim.runs.simulation import Simulation
from tests.fedsim.privacy.small_runs import by_key, run

BOTH = {
    "client": {"noise_multiplier": 2.0, "clipping": "adaptive", "quantile_noise": 3.0, "delta": 1e-3},
    "example": {"noise_multiplier": 1.5},
}


# Runs ----------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_pictures")
def test_the_ledger_of_a_run_is_what_happened_and_survives_a_resume(tmp_path):
    folder = run(tmp_path, BOTH, cohort=3)
    ledger = Ledger.read(folder)
    config = resolve(yaml.safe_load((folder / "config.yaml").read_text()))
    sim = Simulation(config)
    sizes = sim.data.partition.sizes
    assert ledger.rounds == 4
    assert 0 < sum(ledger.took_part) < 24
    worst = max(
        epsilon([Gaussian(1.5, 1 / math.ceil(n / 6), 2 * math.ceil(n / 6) * took)], 1e-5).epsilon
        for n, took in zip(sizes, ledger.took_part, strict=True)
        if took
    )
    found = by_key(guarantees(ledger, with_replaced=False))
    assert found["example", "added or removed", "server"] == worst
    central = epsilon([Gaussian(2.0, 0.5, 4)], 1e-3).epsilon
    assert found["client", "added or removed", "readers"] == central
    half = run(tmp_path, BOTH, "half", cohort=3, rounds=2)
    assert Ledger.read(half).rounds == 2
    raw = yaml.safe_load((half / "config.yaml").read_text())
    (half / "config.yaml").write_text(yaml.safe_dump({**raw, "rounds": 4}))
    fedsim.resume(half)
    assert Ledger.read(half) == ledger


@pytest.mark.usefixtures("no_pictures")
def test_the_file_is_json_that_others_can_read(tmp_path):
    ledger = json.loads((run(tmp_path, BOTH) / "privacy.json").read_text())
    gradients = next(r for r in ledger["releases"] if r["unit"] == "example")
    assert gradients["mechanism"] == "gaussian"
    assert (gradients["noise"], len(gradients["sampling_rate"])) == (1.5, 6)
    assert np.sum(ledger["took_part"]) == 24
