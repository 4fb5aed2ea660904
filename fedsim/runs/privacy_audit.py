"""A canary audit: what an attacker who sees every release provably learns, by the code that runs real federations.

Canaries are in federations or out of them, by lot, which is what the guarantee hides. Canary i alone pushes
parameter i, with a gradient far above the clipping norm: the strongest signal that the mechanism may let through, and
no canary hides another. Where a unit may be replaced, "out" pushes the other way. Noise, clipping, sampling rates and
number of releases are the run's own, if of fewer rounds than a long run. Noise is independent between parameters, coins
are between clients, and federations have seeds of their own, so that each canary is a trial of its own.

The attacker adds up the log-likelihood ratio of every movement x that he sees, in clipping norms, of noise z at rate q,

    log(1 - q + q e^((x - 1/2) / z^2))        less the same of -x, where a unit may be replaced

(of several steps at once, which he sees the sum of, x itself) and guesses "in" above a threshold, or "out" below one. A
quarter of the canaries chooses side and threshold, the others bound both rates by Clopper and Pearson, each at half of
the error probability. As P[guess | one] <= e^eps P[guess | other] + delta for an (eps, delta)-DP mechanism,

    eps >= log((lower bound of P[guess | true] - delta) / upper bound of P[guess | false])       with 95 % confidence.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.stats import beta

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

CANARIES = 60_000
_ONE_IN = 10  # canaries is in, where one that is out costs nothing
_THERE = 300  # units in one federation, at most
_ROUNDS = 5_000  # of all federations of one audit, of one step each
_LONGEST = 100  # rounds of one federation
_CONFIDENCE = 0.95
_PUSH = 1000.0  # a canary's gradient, over the clipping norm

Floats = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]


class Audit(NamedTuple):
    """What one audit found."""

    unit: Unit
    adjacency: str
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
    """Audit client-level privacy: a canary is a client, and out it is none, or pushes the other way."""
    central = config.privacy.client
    assert central is not None
    replaced = central.sampling == "fixed" and config.cohort_size < config.clients_seen
    sizes = _Sizes.of(rounds, 1, canaries, central.delta, one_in=2 if replaced else _ONE_IN, all_there=replaced)
    rate, played = config.cohort_size / config.clients_seen, []
    for number in range(sizes.federations):
        inside = sizes.inside(config.seed, "client", number)
        pushes = np.where(inside, 1.0, -1.0 if replaced else 0.0).astype(np.float32)
        rows = np.diag(pushes)[pushes != 0]
        cohort = max(1, round(rate * len(rows)))
        audited = _federation(
            config, number, len(rows), sizes.rounds, cohort=cohort, batch_size=1, steps=1,
            lr=_PUSH * central.clip_norm, privacy={"client": central.model_dump()},
        )  # fmt: skip
        score = _Score(central.noise, cohort / len(rows), cohort, replaced=replaced)
        played.append((*_play(audited, rows, [[client] for client in range(len(rows))], score), inside))
    return _judge("client", played, sizes.rounds)


def audit_examples(config: RunConfig, ledger: Ledger, claim: Guarantee, canaries: int) -> Audit:
    """Audit example-level privacy: a canary is an example of the one client; the run's worst-off client is copied."""
    example = config.privacy.example
    assert example is not None
    release = next(r for r in ledger.protecting("example") if r.what == DP_SGD)
    spent = ledger.spent(release, claim.client)
    assert spent is not None
    batches, rounds = round(1 / spent.sampling_rate), ledger.took_part[claim.client]
    steps = spent.count // rounds
    sizes, played = _Sizes.of(rounds, steps, canaries, example.delta), []
    for number in range(sizes.federations):
        inside = sizes.inside(config.seed, "example", number)
        rows = np.eye(len(inside), dtype=np.float32)[inside] * _PUSH * example.max_grad_norm
        audited = _federation(
            config, number, 1, sizes.rounds, cohort=1, batch_size=-(-len(rows) // batches), steps=steps, lr=1.0,
            privacy={"example": example.model_dump()},
        )  # fmt: skip
        rate = 1 / batches if steps == 1 else 1.0
        score = _Score(example.noise, rate, len(rows) / batches, bound=example.max_grad_norm)
        played.append((*_play(audited, rows, [list(range(len(rows)))], score), inside))
    return _judge("example", played, sizes.rounds)


class _Sizes(NamedTuple):
    """How large an audit is."""

    rounds: int
    """Of a federation."""
    federations: int
    canaries: int
    """In a federation and out of it."""
    ins: int
    """In it."""

    @classmethod
    def of(
        cls, rounds: int, steps: int, canaries: int, delta: float, one_in: int = _ONE_IN, *, all_there: bool = False
    ) -> _Sizes:
        """Return the sizes for so many canaries in all; delta is to be below one over those that are there."""
        rounds = max(1, min(rounds, _LONGEST // steps or 1))
        there = max(1, min(_THERE, math.ceil(1 / delta) - 1))
        ins = max(1, min(there // one_in if all_there else there, canaries // one_in))
        federations = max(1, min(canaries // (ins * one_in), _ROUNDS // (rounds * steps)))
        return cls(rounds, federations, ins * one_in, ins)

    def inside(self, seed: int, unit: str, number: int) -> Coins:
        """Return which canaries of a federation are in."""
        return generator(seed, f"{unit} canaries", number).permutation(self.canaries) < self.ins


def _federation(
    config: RunConfig, number: int, clients: int, rounds: int, *, cohort: int, batch_size: int, steps: int, lr: float,
    privacy: dict[str, object],
) -> RunConfig:  # fmt: skip
    return resolve(
        {
            "strategy": "canary", "clients": clients, "rounds": rounds, "cohort": cohort, "eval_every": rounds,
            "seed": config.seed + 1 + number, "eval_clients": "none", "model": "logistic",
            "privacy": privacy | {"noise": config.privacy.noise},
            "training": {"batch_size": batch_size, "steps": steps, "lr": lr, "vectorize": "always", "chunk": 100},
            "engine": {"name": "inprocess", "device": "cpu", "threads": config.engine.threads},
        }
    )  # fmt: skip


class _Score(NamedTuple):
    """How an attacker weighs what he sees."""

    noise: float
    rate: float
    scale: float
    """What a sum was divided by."""
    bound: float | None = None
    """The clipping norm, where the server does not tell it."""
    replaced: bool = False

    def __call__(self, moved: Floats, bound: float) -> Floats:
        """Return the scores of canaries by how far their parameters moved."""
        x = moved * self.scale / (self.bound or bound)
        if self.rate == 1:
            return x
        ratio = _log_ratio(x, self.noise, self.rate)
        return ratio - _log_ratio(-x, self.noise, self.rate) if self.replaced else ratio


def _log_ratio(x: Floats, noise: float, rate: float) -> Floats:
    exponents = np.clip((x - 0.5) / max(noise, 0.05) ** 2, -500, 500)
    ratio: Floats = np.logaddexp(math.log(1 - rate), math.log(rate) + exponents)
    return ratio


def _play(
    config: RunConfig, rows: npt.NDArray[np.float32], partition: list[list[int]], score: _Score
) -> tuple[Floats, Ledger]:
    """Run a federation of canaries; returns the score of each, and the ledger."""
    dim = rows.shape[1]
    labels, test = np.zeros(len(rows), np.int64), np.zeros((1, dim), np.float32)
    data = Dataset("canaries", rows, labels, test, np.zeros(1, np.int64), 2, (0.0,) * dim, (1.0,) * dim)
    nobody = Partition.from_lists([[]] * len(partition))
    parts = Partition.from_lists(partition)
    federated = FederatedData(data, parts, nobody, "test", np.full(2, len(rows)), nobody)
    simulation = Simulation(config, data=federated)
    state, engine = simulation.begin(), simulation.engine()
    total = np.zeros(dim)
    try:
        for _ in range(config.rounds):
            before, bound = state.tensors["classifier.weight"][0].double(), state.clip_norm or 1.0
            simulation.step(state, engine)
            moved = (state.tensors["classifier.weight"][0].double() - before).cpu().numpy()
            total += score(moved, bound)
    finally:
        engine.close()
    return total, state.ledger


def _judge(unit: Unit, played: list[tuple[Floats, Ledger, Coins]], rounds: int) -> Audit:
    claim, *_ = guarantees(played[0][1], with_replaced=False)
    delta = claim.delta
    scores, inside = (np.concatenate([game[part] for game in played]) for part in (0, 2))
    lower = lower_bound(scores, inside, delta)
    sure = lower_bound(inside.astype(np.float64), inside, delta)
    return Audit(unit, claim.adjacency, lower, claim.epsilon, delta, sure, len(scores), rounds)


def lower_bound(scores: Floats, inside: Coins, delta: float) -> float:
    """Return the epsilon that these scores (m,) of canaries that were `inside` (m,) or not refute all smaller ones of.

    With 95 % confidence, and 0 if the guesses are no better than coins.
    """
    quarter = len(scores) // 4
    first, rest = slice(None, quarter), slice(quarter, None)
    best = (0.0, 1.0, math.inf)  # what the first quarter shows, side, threshold
    for side in (1.0, -1.0):
        wrong = side * scores[first][~inside[first] if side > 0 else inside[first]]
        if not len(wrong):
            continue
        for threshold in np.quantile(wrong, 1 - np.geomspace(1, 500, 60) / 1000):
            shown = _shown(scores[first], inside[first], side, float(threshold), delta)
            best = max(best, (shown, side, float(threshold)), key=lambda found: found[0])
    return _shown(scores[rest], inside[rest], *best[1:], delta)


def _shown(scores: Floats, inside: Coins, side: float, threshold: float, delta: float) -> float:
    """Return the bound by guessing "in" above the threshold, or "out" above it of the scores turned round."""
    guessed = side * scores > threshold
    true, false = (guessed[inside], guessed[~inside]) if side > 0 else (guessed[~inside], guessed[inside])
    error = (1 - _CONFIDENCE) / 2
    hits, alarms = int(true.sum()), int(false.sum())
    least = float(beta.ppf(error, hits, len(true) - hits + 1)) if hits else 0.0
    most = float(beta.ppf(1 - error, alarms + 1, len(false) - alarms)) if alarms < len(false) else 1.0
    return math.log((least - delta) / most) if least - delta > most else 0.0
