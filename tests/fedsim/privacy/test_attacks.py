"""Claims tested with attacks: exact divergences of small cases, repeated games, and subtraction."""

import math

import numpy as np
import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.federated.sampling import sample_cohort
from fedsim.privacy.accountant import gaussian_epsilon
from fedsim.privacy.address import Secrets
from fedsim.privacy.central import CentralPrivacy
from fedsim.privacy.config import ClientPrivacyConfig
from fedsim.privacy.guarantees import guarantees
from fedsim.runs.privacy_audit import lower_bound
from fedsim.runs.simulation import Simulation
from tests.fedsim.privacy.one_round import TINY

# Samples of one size: exact divergences ------------------------------------------------------------------------------


def test_an_attack_refutes_one_sensitivity_and_not_what_is_claimed():
    """200,000 one-parameter federations of four clients, of which three are drawn: one pushes up, all others down.

    Without it another is drawn in its place, so that the sum moves by 2 S; S alone would be epsilon 3.14 at z = 1.
    """
    delta, games = 1e-3, 200_000
    rng = np.random.default_rng(0)
    inside = rng.random(games) < 0.3
    cohorts = [sample_cohort(rng, np.ones(4 if there else 3, np.int64), 3) for there in inside]
    sums = torch.tensor(
        [-1.0 if there and 3 in cohort else -3.0 for there, cohort in zip(inside, cohorts, strict=True)]
    )
    config = ClientPrivacyConfig(noise_multiplier=1.0, sampling="fixed", delta=delta)
    central = CentralPrivacy(config, 3, Secrets(resolve({})))
    seen = central.aggregate({"w": torch.zeros(games)}, iter([({"w": sums / 3}, 3.0)]), 1)["w"].double().numpy() * 3
    proven = lower_bound(seen, inside, delta)
    assert gaussian_epsilon(1.0, delta) == pytest.approx(3.139, abs=1e-3)
    assert proven > 4
    run = {"clients": 4, "cohort": 3, "privacy.client": config.model_dump(), "data.max_per_class": 4}
    state = Simulation(resolve(run)).begin()
    state.release(1, [0, 1, 2])
    replaced, zeroed = guarantees(state.ledger)
    assert (replaced.adjacency, zeroed.adjacency) == ("replaced", "zeroed out")
    exact = math.log1p(0.75 * math.expm1(gaussian_epsilon(2.0, delta / 0.75)))
    assert proven < replaced.epsilon == pytest.approx(exact, abs=0.002)
    assert zeroed.epsilon == gaussian_epsilon(1.0, delta)


def test_clients_without_data_leave_the_others_a_larger_share():
    config = resolve(
        TINY, {"clients": 6, "cohort": 2, "privacy.client": {"noise_multiplier": 1.0, "sampling": "fixed"}}
    )
    whole = Simulation(config).data
    left = whole.without(np.concatenate([whole.partition[client] for client in (0, 1)]))
    ledger = Simulation(config, data=left).begin().ledger
    assert [release.sampling_rate for release in ledger.protecting("client")] == [2 / 4, 1.0]
