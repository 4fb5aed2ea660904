"""A canary audit in one run (Steinke, Nasr and Jagielski, arXiv:2305.08846): what an attacker provably learns.

m canaries are each put into a federation by a fair coin. Canary i alone pushes parameter i, with a gradient far above
the clipping norm: the strongest signal that the mechanism may let through, and no canary hides another. The federation
is run by the very code that runs real ones, with the run's own noise, clipping, sampling rates and number of releases,
if with fewer rounds than a long run. The attacker sees how far each parameter moved and guesses that the k that moved
most were in, and the k that moved least were out; the number of right guesses bounds epsilon from below. Of some
guessers (m/2, m/8, m/32, m/128 guesses) the best counts, each at a share of the error probability.

For the right guesses W among r, of an (epsilon, delta)-DP mechanism (Theorem 5.2), with f(v) = P[Binomial(r, p) >= v]
and p = e^epsilon / (1 + e^epsilon):    P[W >= v] <= f(v) + 2 m delta max_{i=1..m} (f(v - i) - f(v)) / i
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import binom

from fedsim.config.resolve import resolve
from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.datasets import Dataset
from fedsim.data.federation import FederatedData
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors
from fedsim.privacy.guarantees import Guarantee, guarantees
from fedsim.privacy.ledger import Ledger, Unit
from fedsim.randomness import generator
from fedsim.runs.privacy_setup import DP_SGD
from fedsim.runs.simulation import Simulation

CANARIES = 2_000
_CLIENT_ROUNDS = 60_000  # at most so many clients are simulated for one audit
_STEPS = 2_000
_DELTA = 1e-5  # at most: so many canaries say little about an epsilon at a larger one
_CONFIDENCE = 0.95
_SHARES = (2, 8, 32, 128)
_PUSH = 1000.0  # a canary's gradient, over the clipping norm


class Audit(NamedTuple):
    """What one audit found."""

    unit: Unit
    lower: float
    """Epsilon is at least this, with 95 % confidence."""
    claimed: float
    """By the accountant, for the releases of the audit."""
    delta: float
    limit: float
    """The largest lower bound that so many canaries can show."""
    canaries: int
    rounds: int

    @property
    def refuted(self) -> bool:
        """Whether the claim is false."""
        return self.lower > self.claimed


class CanaryClient(Client):
    """A loss that is linear: the gradient of a sample is the sample, turned round, on the first class's weights."""

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """Return -mean <w_0, x>."""
        return batch.mean(-(batch.x @ params["classifier.weight"][0])), {}


strategy("canary", StrategyConfig, CanaryClient, Server)


def audit_run(config: RunConfig, ledger: Ledger, canaries: int = CANARIES) -> list[Audit]:
    """Return an audit of each guarantee, that of `privacy:` in the configuration, of a run.

    Raises
    ------
    FedsimError
        If the run has none, or no round yet.
    """
    found = {g.unit: g for g in guarantees(ledger, with_replaced=False) if g.epsilon > 0}
    audits = []
    if config.privacy.client is not None and "client" in found:
        audits.append(audit_clients(config, ledger.rounds, canaries))
    if config.privacy.example is not None and "example" in found:
        audits.append(audit_examples(config, ledger, found["example"], canaries))
    if not audits:
        raise FedsimError("--audit: nothing to audit: the run has no privacy section, or no round yet")
    return audits


def audit_clients(config: RunConfig, rounds: int, canaries: int) -> Audit:
    """Audit client-level privacy: a canary is a client, and out of the federation it sends zeros."""
    central = config.privacy.client
    assert central is not None
    delta, rate = min(central.delta, _DELTA), config.cohort_size / config.clients_seen
    rounds = max(1, min(rounds, int(_CLIENT_ROUNDS / (rate * canaries))))
    inside = _coins(config.seed, "client", canaries)
    rows = np.eye(canaries, dtype=np.float32) * inside[:, None]
    audited = _federation(
        config, canaries, rounds, cohort=max(1, round(rate * canaries)), batch_size=1, steps=1,
        lr=_PUSH * central.clip_norm, privacy={"client": central.model_dump() | {"delta": delta}},
    )  # fmt: skip
    score, simulated = _play(audited, rows, [[client] for client in range(canaries)])
    return _judge("client", score, inside, delta, simulated, rounds)


def audit_examples(config: RunConfig, ledger: Ledger, claim: Guarantee, canaries: int) -> Audit:
    """Audit example-level privacy: a canary is an example of the one client; the run's worst-off client is copied."""
    example = config.privacy.example
    assert example is not None
    delta = min(example.delta, _DELTA)
    release = next(r for r in ledger.protecting("example") if r.what == DP_SGD)
    spent = ledger.spent(release, claim.client)
    assert spent is not None
    steps = round(1 / spent.sampling_rate)
    rounds = ledger.took_part[claim.client]
    each = spent.count // rounds
    rounds = max(1, min(rounds, _STEPS // each))
    inside = _coins(config.seed, "example", canaries)
    rows = np.eye(canaries, dtype=np.float32)[inside] * _PUSH * example.max_grad_norm
    audited = _federation(
        config, 1, rounds, cohort=1, batch_size=-(-len(rows) // steps), steps=each, lr=1.0,
        privacy={"example": example.model_dump() | {"delta": delta}},
    )  # fmt: skip
    score, simulated = _play(audited, rows, [list(range(len(rows)))])
    return _judge("example", score, inside, delta, simulated, rounds)


def _coins(seed: int, unit: str, canaries: int) -> npt.NDArray[np.bool_]:
    return generator(seed, f"{unit} canaries").random(canaries) < 0.5


def _federation(
    config: RunConfig, clients: int, rounds: int, *, cohort: int, batch_size: int, steps: int, lr: float,
    privacy: dict[str, object],
) -> RunConfig:  # fmt: skip
    return resolve(
        {
            "strategy": "canary", "clients": clients, "rounds": rounds, "cohort": cohort, "eval_every": rounds,
            "seed": config.seed + 1, "eval_clients": "none", "model": "logistic", "privacy": privacy,
            "training": {"batch_size": batch_size, "steps": steps, "lr": lr, "cohort": "vectorized", "chunk": 100},
            "engine": {"name": "inprocess", "device": "cpu", "threads": config.engine.threads},
        }
    )  # fmt: skip


def _play(
    config: RunConfig, rows: npt.NDArray[np.float32], partition: list[list[int]]
) -> tuple[npt.NDArray[np.float64], Ledger]:
    """Run a federation of canaries; returns how far each one's parameter moved, in clipping norms, and its ledger."""
    dim = rows.shape[1]
    labels, test = np.zeros(len(rows), np.int64), np.zeros((1, dim), np.float32)
    data = Dataset("canaries", rows, labels, test, np.zeros(1, np.int64), 2, (0.0,) * dim, (1.0,) * dim)
    nobody = Partition.from_lists([[]] * len(partition))
    parts = Partition.from_lists(partition)
    federated = FederatedData(data, parts, nobody, "test", np.full(2, len(rows)), nobody)
    simulation = Simulation(config, data=federated)
    state, engine = simulation.begin(), simulation.engine()
    score = np.zeros(dim)
    try:
        for _ in range(config.rounds):
            before, bound = state.tensors["classifier.weight"][0].double(), state.clip_norm or 1.0
            simulation.step(state, engine)
            score += ((state.tensors["classifier.weight"][0].double() - before) / bound).cpu().numpy()
    finally:
        engine.close()
    return score, state.ledger


def _judge(
    unit: Unit,
    score: npt.NDArray[np.float64],
    inside: npt.NDArray[np.bool_],
    delta: float,
    simulated: Ledger,
    rounds: int,
) -> Audit:
    claim, *_ = guarantees(simulated, with_replaced=False)
    lower = lower_bound(score, inside, delta)
    sure = max(_bound(len(score), r, r, delta) for r in _guesses(len(score)))
    return Audit(unit, lower, claim.epsilon, delta, sure, len(score), rounds)


def lower_bound(score: npt.NDArray[np.float64], inside: npt.NDArray[np.bool_], delta: float) -> float:
    """Return the epsilon that these scores (m,) of canaries that were `inside` (m,) or not refute all smaller ones of.

    With 95 % confidence, and 0 if the guesses are no better than coins.
    """
    order, best = np.argsort(-score, kind="stable"), 0.0
    for guesses in _guesses(len(score)):
        half = guesses // 2
        right = int(inside[order[:half]].sum() + (~inside[order[len(order) - (guesses - half) :]]).sum())
        best = max(best, _bound(len(score), guesses, right, delta))
    return best


def _guesses(canaries: int) -> list[int]:
    return [canaries // share for share in _SHARES if canaries >= share]


def _bound(canaries: int, guesses: int, right: int, delta: float) -> float:
    """Return the largest epsilon under which so many right guesses are too unlikely."""
    allowed = (1 - _CONFIDENCE) / len(_SHARES)
    if p_value(canaries, guesses, right, 0.0, delta) > allowed:
        return 0.0
    low, high = 0.0, 60.0
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(canaries, guesses, right, middle, delta) <= allowed else (low, middle)
    return low


def p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    """Return the probability, at most, of so many right guesses if the mechanism is (epsilon, delta)-DP."""
    p = 1 / (1 + math.exp(-epsilon))
    # f(v - i) - f(v) = P[v - i <= Binomial < v]; beyond i = v it no longer grows.
    tail = float(binom.sf(right - 1, guesses, p))
    below = np.cumsum(binom.pmf(np.arange(right - 1, -1, -1), guesses, p))
    steepest = float((below / np.arange(1, right + 1)).max()) if right else 0.0
    return min(1.0, tail + 2 * canaries * delta * steepest)
