"""What is claimed against attacks: exact divergences of small cases, games played many times, and subtraction."""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import norm

from fedsim.config.resolve import resolve
from fedsim.errors import FedsimError
from fedsim.federated.sampling import sample_cohort
from fedsim.privacy import subsets
from fedsim.privacy.accountant import Gaussian, epsilon, gaussian_delta, gaussian_epsilon
from fedsim.privacy.address import Secrets, digest
from fedsim.privacy.central import CentralPrivacy
from fedsim.privacy.config import ClientPrivacyConfig
from fedsim.privacy.guarantees import guarantees
from fedsim.privacy.ledger import Ledger, Release
from fedsim.privacy.mechanisms import gaussian_like
from fedsim.runs.privacy_audit import lower_bound
from fedsim.runs.simulation import Simulation

Floats = npt.NDArray[np.float64]

# Samples of one size: exact divergences ------------------------------------------------------------------------------


def density(x: Floats, values: Sequence[float], m: int, noise: float) -> Floats:
    """Return the density of a noisy sum of m of these values, drawn without replacement."""
    samples = list(itertools.combinations(values, m))
    return np.mean([norm.pdf(x, sum(sample), noise) for sample in samples], axis=0)


def divergence(p: Floats, q: Floats, eps: float, cell: float) -> float:
    return float(np.clip(p - math.exp(eps) * q, 0, None).sum() * cell)


def profile(eps: float, q: float, noise: float) -> float:
    """Return delta of one release, at eps >= 0."""
    return q * gaussian_delta(math.log1p(math.expm1(eps) / q), 2 / noise)


@pytest.mark.parametrize(("n", "m", "noise"), [(3, 1, 1.0), (3, 2, 1.0), (4, 1, 0.7), (4, 3, 2.0)])
def test_no_pair_of_neighbours_exceeds_the_theorem_and_the_worst_attains_it(n, m, noise):
    """All values from {-1, 0, 1} of n - 1 others and one replaced, added or removed."""
    x = np.linspace(-m - 9 * noise, m + 9 * noise, 6001)
    cell = x[1] - x[0]
    for eps in (0.0, 0.5, 2.0, 4.0):
        largest = 0.0
        for others in itertools.combinations_with_replacement((-1.0, 0.0, 1.0), n - 1):
            with_one = [density(x, (*others, value), m, noise) for value in (-1.0, 0.0, 1.0)]
            sets = [*with_one, density(x, others, m, noise)]
            for p, q in itertools.permutations(sets, 2):
                largest = max(largest, divergence(p, q, eps, cell))
        claimed = profile(eps, m / n, noise)
        assert largest <= claimed * (1 + 1e-5) + 1e-9
        assert largest == pytest.approx(claimed, rel=1e-4, abs=1e-9)


def test_two_releases_together_stay_below_what_is_composed():
    m, n, noise = 1, 3, 1.5
    x = np.linspace(-12, 12, 1201)
    cell = (x[1] - x[0]) ** 2
    for delta in (1e-2, 1e-4):
        claimed = subsets.epsilon([(noise / 2, m / n, 2)], delta)
        worst = 0.0
        for others in itertools.combinations_with_replacement((-1.0, 0.0, 1.0), n - 1):
            ones = [density(x, (*others, value), m, noise) for value in (-1.0, 1.0)]
            for p, q in itertools.permutations(ones, 2):
                worst = max(worst, divergence(np.outer(p, p), np.outer(q, q), claimed, cell))
        assert 0.3 * delta < worst <= delta  # an upper bound, and no empty one


def test_the_accountant_is_exact_for_one_release_and_without_sampling():
    for q, exact in [(0.25, 5.292), (0.5, 6.4505), (0.9, 7.4111)]:  # z = 1, delta 1e-3
        assert epsilon([Gaussian(0.5, q, 1, fixed=True)], 1e-3).epsilon == pytest.approx(exact, abs=0.002)
        assert profile(exact, q, 1.0) == pytest.approx(1e-3, rel=1e-3)
    for count in (1, 7, 300):
        found = subsets.epsilon([(5.0, 1.0, count)], 1e-5)
        exact = gaussian_epsilon(math.sqrt(count) / 5, 1e-5)
        assert exact <= found <= exact + 0.02
    one, other = (subsets.epsilon([(2.0, 0.3, count)], 1e-5) for count in (20, 40))
    assert subsets.epsilon([(2.0, 0.3, 20), (2.0, 0.3, 20)], 1e-5) == pytest.approx(other, abs=0.02)
    assert one < other
    assert subsets.epsilon([(1.0, 0.5, 3)], 1e-300) == math.inf


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


# Subtraction ---------------------------------------------------------------------------------------------------------

TINY = {
    "clients": 3, "rounds": 1, "eval_every": 100, "model": {"name": "mlp", "hidden": [64]},
    "data": {"max_per_class": 9, "partition": "iid"},
    "training": {"epochs": 1, "batch_size": 99, "vectorize": "never", "chunk": 99},
}  # fmt: skip
LEVELS = {
    "client": {"privacy.client.clip_norm": 0.1, "privacy.client.delta": 1e-3},
    "example": {"privacy.example.max_grad_norm": 0.1, "privacy.example.delta": 1e-3},
}


def released(level: str, noise: float, **changes: Any) -> torch.Tensor:
    """Return the global model after a round."""
    key = f"privacy.{level}.noise_multiplier"
    simulation = Simulation(resolve(TINY, LEVELS[level], {key: noise, **changes}))
    state = simulation.begin()
    simulation.step(state, simulation.engine())
    return torch.cat([value.flatten() for value in state.tensors.values()]).double()


def noise_of(level: str, noise: float = 1.0, **changes: Any) -> torch.Tensor:
    """Return the noise of a release: what it differs by from the same without."""
    return released(level, noise, **changes) - released(level, 0.0, **changes)


def correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(np.corrcoef(a.numpy(), b.numpy())[0, 1])


@pytest.mark.parametrize("level", LEVELS)
def test_two_releases_with_different_noise_do_not_give_the_exact_value_away(level):
    one, other = released(level, 1.0), released(level, 2.0)
    assert torch.equal(one, released(level, 1.0))  # a run repeats
    exact = released(level, 0.0)
    guess = 2 * one - other  # noise of one address would cancel
    assert float((guess - exact).std()) > 2 * float((one - exact).std())


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    "changes",
    [
        {"training.lr": 0.05}, {"training.momentum": 0.5}, {"strategy": "fedprox"}, {"seed": 1},
        {"data.max_per_class": 8}, {"training.weight_decay": 1e-3},
    ],
    ids=str,
)  # fmt: skip
def test_two_recipes_share_no_noise(level, changes):
    mine, theirs = noise_of(level), noise_of(level, **changes)
    assert abs(correlation(mine, theirs)) < 4.5 / len(mine) ** 0.5


def test_what_changes_no_release_changes_no_noise():
    mine = released("example", 1.0)
    for changes in ({"rounds": 3}, {"name": "other"}, {"history.keep": "updates"}, {"eval_every": 1}):
        assert torch.equal(mine, released("example", 1.0, **changes))


@pytest.mark.parametrize("level", LEVELS)
def test_the_same_recipe_on_other_data_has_noise_of_its_own(level):
    """As an oracle trained without some samples has, beside the run itself."""
    key = f"privacy.{level}.noise_multiplier"

    def after(noise: float, *, all_there: bool) -> torch.Tensor:
        config = resolve(TINY, LEVELS[level], {key: noise})
        whole = Simulation(config).data
        left = whole if all_there else whole.without(np.concatenate([whole.partition[c][:1] for c in range(3)]))
        simulation = Simulation(config, data=left)
        state = simulation.begin()
        simulation.step(state, simulation.engine())
        return torch.cat([value.flatten() for value in state.tensors.values()]).double()

    mine, theirs = (after(1.0, all_there=there) - after(0.0, all_there=there) for there in (True, False))
    assert abs(correlation(mine, theirs)) < 4.5 / len(mine) ** 0.5


def test_bags_share_no_noise_but_of_the_same_release():
    bags = {
        "strategy": "aggregate", "data": {"name": "diabetes", "partition": "iid"}, "model": "linear", "clients": 3,
        "strategy.bag_size": 1,
    }  # fmt: skip

    def means(**changes: Any) -> Floats:
        return np.asarray(Simulation(resolve(bags, changes)).data.dataset.y_train, np.float64)

    exact = means(**{"strategy.epsilon": 1e6})  # and clipped
    one, other = means(**{"strategy.epsilon": 1.0}), means(**{"strategy.epsilon": 2.0})
    assert np.std(2 * other - one - exact) > np.std(one - exact)  # scales 1 and 1/2 would cancel
    assert abs(np.corrcoef(one - exact, other - exact)[0, 1]) < 4.5 / len(one) ** 0.5
    assert np.array_equal(one, means(**{"strategy.epsilon": 1.0, "training.lr": 0.01}))  # released once


# Randomness of the operating system ----------------------------------------------------------------------------------


def test_secure_noise_repeats_nothing_and_is_gaussian():
    draw = gaussian_like(torch.zeros(400, 250), 3.0, None).flatten()
    assert float(draw.std()) == pytest.approx(3.0, rel=0.01)
    assert float((draw.abs() > 6).float().mean()) == pytest.approx(0.0455, rel=0.06)
    assert abs(correlation(draw[:-1].double(), draw[1:].double())) < 4.5 / 100_000**0.5
    assert gaussian_like(torch.zeros(0), 3.0, None).shape == (0,)
    for level in LEVELS:
        secure = [released(level, 1.0, **{"privacy.noise": "secure"}) for _ in range(2)]
        assert abs(correlation(*(one - released(level, 0.0) for one in secure))) < 4.5 / len(secure[0]) ** 0.5


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"history.keep": "updates"}, r"history\.keep: must be none with privacy\.noise=secure"),
        ({"strategy": "aggregate", "data.name": "breast_cancer"}, r"privacy\.noise: bags' means .* must be seeded"),
    ],
)
def test_what_needs_repeatable_noise_is_refused_in_one_line(changes, line):
    with pytest.raises(FedsimError, match=line):
        Simulation(resolve(TINY, {"privacy.noise": "secure", **changes}))


def test_digests_tell_apart_what_differs():
    a, b = torch.zeros(2, 3), torch.zeros(3, 2)
    several = [(a,), (b,), (a.double(),), (a, a), ({"a": a},), ({"b": a},), ("a",), ("a", ""), (1,), ({},)]
    assert len({digest(*parts) for parts in several}) == len(several)
    assert digest({"a": a, "b": b}) == digest({"b": b, "a": a})
    assert digest(torch.zeros(2, dtype=torch.bfloat16)) == digest(torch.zeros(2, dtype=torch.bfloat16))


# Numbers beyond reason -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"privacy.example": {"noise_multiplier": 1.0, "delta": 0.5}},
         r"privacy\.example\.delta: must be below one over the \d+ samples of the largest client \(.*\), got 0\.5"),
        ({"privacy.example": {"noise_multiplier": 1e-200}}, r"privacy\.example: noise_multiplier 1e-200 protects"),
        ({"privacy.client": {"noise_multiplier": 1e-200}}, r"privacy\.client: noise_multiplier 1e-200 protects"),
        ({"privacy.client": {"noise_multiplier": 1e200}}, r"noise_multiplier: must be .* 1"),
        ({"privacy.client": {"target_epsilon": 1e300}}, r"privacy\.client\.target_epsilon: must be"),
        ({"strategy": {"name": "aggregate", "mechanism": "gaussian", "delta": 0.5}}, r"strategy\.delta: must be below"),
        ({"strategy": {"name": "aggregate", "epsilon": 1e-300}}, r"strategy\.epsilon: must be"),
    ],
    ids=str,
)  # fmt: skip
def test_what_promises_nothing_is_refused_in_one_line(changes, line):
    with pytest.raises(FedsimError, match=line):
        Simulation(resolve(TINY, changes))


@pytest.mark.parametrize("target", [1e-300, 1e-5, 1e5])
def test_any_other_target_is_met(target):
    config = Simulation(resolve(TINY, {"privacy.client": {"target_epsilon": target, "delta": 1e-3}})).config
    assert config.privacy.client is not None
    assert 0 < config.privacy.client.noise < 1e6


def test_a_ledger_with_next_to_no_noise_says_infinity():
    for noise in (0.0, 1e-320, 1e-200, 1e-5):
        for rate in (1.0, 0.5):
            release = Release(
                what="steps", covers=("model",), mechanism="gaussian", unit="example", noise=noise, delta=1e-5,
                sampling_rate=rate,
            )  # fmt: skip
            rows = guarantees(Ledger(releases=(release,), rounds=1, took_part=[1]))
            assert [row.epsilon for row in rows] == [math.inf] * 2
