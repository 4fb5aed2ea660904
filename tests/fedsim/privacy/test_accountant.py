"""Every number against a closed form, a published value or another accountant."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.integrate import quad
from scipy.stats import norm

from fedsim.privacy.accountant import (
    Gaussian,
    calibrate,
    epsilon,
    frontier,
    gaussian_delta,
    gaussian_epsilon,
    prv_epsilon,
    rdp_epsilon,
    replaced,
)
from fedsim.privacy.mechanisms import gaussian_noise_multiplier

# (z, q, T, delta): RDP, PRV of Opacus 1.6, and the CLT accountant's value, which is too low.
REFERENCE = {
    (1.0, 0.1, 100, 1e-5): (7.899, 7.057, 6.007),
    (1.1, 256 / 60000, 14040, 1e-5): (2.594, 2.390, 2.322),
    (2.0, 0.25, 200, 1e-4): (9.228, 8.407, 8.234),
    (5.0, 1.0, 50, 1e-5): (7.077, 6.583, 6.652),
}


@pytest.mark.parametrize(("case", "values"), REFERENCE.items())
def test_the_reference_table(case, values):
    z, q, steps, delta = case
    rdp, prv, clt = values
    history = [Gaussian(z, q, steps)]
    assert rdp_epsilon(history, delta) == pytest.approx(rdp, abs=0.01)
    assert prv_epsilon(history, delta) == pytest.approx(prv, abs=0.01)
    bound = epsilon(history, delta)
    assert bound == pytest.approx((6.573, "exact") if q == 1 else (prv, "PRV"), abs=0.01)
    assert bound.epsilon <= rdp
    if q < 1:
        assert bound.epsilon > clt


def test_the_closed_form_is_the_integral_that_defines_delta():
    # delta(eps) = sup_S P(S) - e^eps Q(S), the integral of (p - e^eps q)+ for P = N(mu, 1), Q = N(0, 1).
    for mu, eps in [(0.3, 0.1), (1.0, 1.0), (2.5, 4.0)]:
        edge = eps / mu + mu / 2
        value, _ = quad(lambda x: norm.pdf(x, mu) - math.exp(eps) * norm.pdf(x), edge, edge + 30)  # noqa: B023
        assert gaussian_delta(eps, mu) == pytest.approx(value, rel=1e-6)


def test_tau_has_its_published_values():
    assert gaussian_noise_multiplier(1, 1e-5) == pytest.approx(3.7306, abs=5e-5)
    assert gaussian_noise_multiplier(0.5, 1e-5) == pytest.approx(7.0318, abs=5e-5)
    assert gaussian_noise_multiplier(4, 1e-5) == pytest.approx(1.0812, abs=5e-5)


def test_replacing_a_record_costs_what_the_group_rule_says():
    history = [Gaussian(2.0, 0.1, 100)]
    assert epsilon(history, 1e-5).epsilon == pytest.approx(2.348, abs=0.01)
    doubled = replaced(history, 1e-5)
    assert doubled.epsilon == pytest.approx(5.515, abs=0.02)
    assert doubled.at_delta == pytest.approx(5.97e-7, rel=0.05)
    assert (1 + math.exp(doubled.epsilon / 2)) * doubled.at_delta <= 1e-5
    for noise in (0.3, 0.5):  # large epsilons too are what the rule gives, not more than infinite
        rule = replaced([Gaussian(noise, 0.5, 6)], 1e-5)
        assert math.isinf(rule.epsilon) or math.log(rule.at_delta) + math.log1p(math.exp(rule.epsilon / 2)) <= -11.5129
        assert math.isfinite(rule.epsilon) or noise == 0.3
    # Without sampling it is exact: half the noise multiplier.
    assert replaced([Gaussian(6.0, 1.0, 3)], 1e-5).epsilon == gaussian_epsilon(math.sqrt(3) / 3.0, 1e-5)


def test_nothing_costs_nothing_and_no_noise_costs_everything():
    assert epsilon([], 1e-5).epsilon == 0
    assert epsilon([Gaussian(0.0, 1.0, 0)], 1e-5).epsilon == 0
    assert epsilon([Gaussian(1.0, 1.0, 5), Gaussian(0.0, 0.1, 1)], 1e-5).epsilon == math.inf
    assert gaussian_epsilon(math.inf, 1e-5) == math.inf
    assert replaced([Gaussian(0.0, 0.5, 1)], 1e-5).epsilon == math.inf


def test_composition_of_different_noises_is_exact_without_sampling_and_an_upper_bound_with():
    # Two Gaussians compose like one with the root of the sum of squared mu.
    exact = gaussian_epsilon(math.hypot(1 / 2, math.sqrt(7) / 5), 1e-6)
    assert epsilon([Gaussian(2.0, 1.0, 1), Gaussian(5.0, 1.0, 7)], 1e-6).epsilon == pytest.approx(exact)
    # One of them subsampled at a rate of nearly one: above, and near, the exact value.
    nearly = epsilon([Gaussian(2.0, 1.0, 1), Gaussian(5.0, 0.9999, 7)], 1e-6)
    assert nearly.accountant == "PRV"
    assert exact * 0.999 <= nearly.epsilon <= exact + 0.02


@pytest.mark.parametrize(
    ("z", "q", "steps", "delta"),
    [(1.0, 0.1, 100, 1e-5), (2.0, 0.25, 200, 1e-4), (5.0, 1.0, 50, 1e-5), (10.0, 0.1, 100, 1e-5), (3.0, 0.3, 1, 1e-5),
     (0.8, 0.9, 20, 1e-6)],
)  # fmt: skip
def test_another_library_agrees_within_one_percent(z, q, steps, delta):
    accounting = pytest.importorskip("dp_accounting")
    from dp_accounting.pld import PLDAccountant

    other = PLDAccountant()
    event = accounting.PoissonSampledDpEvent(q, accounting.GaussianDpEvent(z))
    other.compose(accounting.SelfComposedDpEvent(event, steps))
    assert epsilon([Gaussian(z, q, steps)], delta).epsilon == pytest.approx(other.get_epsilon(delta), rel=0.01)


noises = st.floats(0.3, 50)
rates = st.floats(0.001, 1)
counts = st.integers(1, 2000)
deltas = st.floats(1e-9, 1e-2)
exact_or_rdp = st.sampled_from(
    [rdp_epsilon, lambda history, delta: epsilon([h._replace(rate=1.0) for h in history], delta).epsilon]
)


@given(exact_or_rdp, noises, rates, counts, deltas, st.floats(1, 3))
@settings(max_examples=15, deadline=None)
def test_epsilon_is_monotone(account, z, q, steps, delta, factor):
    base = account([Gaussian(z, q, steps)], delta) * (1 + 1e-9) + 1e-9
    assert account([Gaussian(z * factor, q, steps)], delta) <= base
    assert account([Gaussian(z, q / factor, steps)], delta) <= base
    assert account([Gaussian(z, q, max(1, int(steps / factor)))], delta) <= base
    assert account([Gaussian(z, q, steps)], delta * factor) <= base
    assert account([Gaussian(z, q, steps), Gaussian(z, q, steps)], delta) >= base / (1 + 1e-8) - 1e-8


@given(st.floats(0.7, 10), st.floats(0.01, 0.9), st.integers(1, 300), st.floats(1e-7, 1e-3))
@settings(max_examples=5, deadline=None)
def test_the_reported_value_lies_between_its_limits(z, q, steps, delta):
    """Sampling cannot make it worse than none; nor can the tight accountant be above the loose one."""
    bound = epsilon([Gaussian(z, q, steps)], delta)
    assert bound.epsilon <= rdp_epsilon([Gaussian(z, q, steps)], delta) + 0.02
    assert bound.epsilon <= gaussian_epsilon(math.sqrt(steps) / z, delta) + 0.02
    assert epsilon([Gaussian(2 * z, q, steps)], delta).epsilon <= bound.epsilon + 0.01


@given(st.floats(0.05, 20), st.floats(1e-8, 1e-2), st.integers(1, 1000))
@settings(max_examples=100, deadline=None)
def test_calibration_without_sampling_inverts_the_closed_form(target, delta, count):
    z = calibrate(target, delta, [(1.0, count)])
    assert epsilon([Gaussian(z, 1.0, count)], delta).epsilon == pytest.approx(target, rel=1e-6)
    assert epsilon([Gaussian(z, 1.0, count)], delta).epsilon <= target * (1 + 1e-9)


def test_calibration_with_sampling_keeps_every_schedule_below_the_target_and_wastes_little():
    schedules = [(0.1, 100), (0.05, 300)]
    z = calibrate(2.0, 1e-5, schedules)
    reached = [epsilon([Gaussian(z, *schedule)], 1e-5).epsilon for schedule in schedules]
    assert max(reached) <= 2.0
    assert max(reached) > 1.98
    with pytest.raises(ValueError, match="above a million"):
        calibrate(1e-9, 1e-12, [(1.0, 1)])


@given(st.lists(st.tuples(st.sampled_from([0.1, 0.2, 0.5, 1.0]), st.integers(0, 9))))
def test_the_frontier_dominates_all_it_leaves_out(schedules):
    kept = frontier(schedules)
    assert set(kept) <= set(schedules)
    for rate, count in schedules:
        assert count == 0 or any(rate <= r and count <= c for r, c in kept)
    assert np.all(np.diff([c for _, c in kept]) > 0)
