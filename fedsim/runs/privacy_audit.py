"""A canary audit: a lower bound on epsilon from an attack on every release, made with the code that runs federations.

Each canary is drawn at random to be in a federation or out of it; the guarantee says that an attacker cannot tell.
Canary i has a gradient on parameter i only, far above the clipping norm. This is the strongest signal that the
mechanism lets through, and canaries do not hide each other. If the guarantee is about replacement, a canary that is
"out" has the opposite gradient. Noise, clipping and sampling rates are those of the run; the number of releases is too,
unless the run is long. Canaries are independent trials: noise is independent between parameters, sampling is between
clients, and each federation has its own seed.

The attacker sees the movement x of a parameter in each release, in units of the clipping norm. With noise multiplier z
and sampling rate q, he adds up the log-likelihood ratios

    log(1 - q + q e^((x - 1/2) / z^2))        minus the same of -x, if the guarantee is about replacement

or x itself, if a release is the sum of several steps. He guesses "in" above a threshold, or "out" below one. A quarter
of the canaries serve to choose side and threshold. On the others, the rates of right and wrong guesses have
Clopper-Pearson bounds, each at half of the error probability. An (eps, delta)-DP mechanism has
P[guess | one] <= e^eps P[guess | other] + delta, so with 95 % confidence

    eps >= log((lower bound of P[guess | true] - delta) / upper bound of P[guess | false]).
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
_ONE_IN = 10  # one of ten canaries is in, if those that are out cost nothing
_THERE = 300  # largest number of units in one federation
_ROUNDS = 5_000  # largest number of steps, over all federations of an audit
_LONGEST = 100  # largest number of steps in one federation
_CONFIDENCE = 0.95
_PUSH = 1000.0  # norm of a canary's gradient, in clipping norms

Floats = npt.NDArray[np.float64]
Coins = npt.NDArray[np.bool_]


class Audit(NamedTuple):
    """The result of one audit."""

    unit: Unit
    adjacency: str
    lower: float
    """Lower bound on epsilon, with 95 % confidence."""
    claimed: float
    """The accountant's epsilon for the releases of the audit."""
    delta: float
    limit: float
    """The largest lower bound that this number of canaries can give."""
    canaries: int
    rounds: int

    @property
    def refuted(self) -> bool:
        """Whether the lower bound exceeds the claim."""
        return self.lower > self.claimed


class CanaryClient(Client):
    """A client with a linear loss: the gradient of a sample x, on the weights of the first class, is -x."""

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[torch.Tensor, Tensors]:
        """Return -mean <w_0, x>."""
        return batch.mean(-(batch.x @ params["classifier.weight"][0])), {}


strategy("canary", StrategyConfig, CanaryClient, Server)


def audit_run(config: RunConfig, ledger: Ledger, canaries: int = CANARIES) -> list[Audit]:
    """Audit each guarantee that the `privacy:` section of a run's configuration asks for.

    Raises
    ------
    FedsimError
        If the run has no such section, or has not finished a round.
    """
    found = {g.unit: g for g in guarantees(ledger, with_replaced=False) if g.epsilon > 0}
    audits = []
    if config.privacy.client is not None and "client" in found:
        audits.append(audit_clients(config, ledger.rounds, canaries))
    if config.privacy.example is not None and "example" in found:
        audits.append(audit_examples(config, ledger, found["example"], canaries))
    if not audits:
        raise FedsimError("--audit: nothing to audit: the run has no privacy section, or no finished round")
    return audits


def audit_clients(config: RunConfig, rounds: int, canaries: int) -> Audit:
    """Audit client-level privacy: a canary is a client; one that is out is missing, or has the opposite gradient."""
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
    """Audit example-level privacy: a canary is a sample of the only client.

    This client has the sampling rate and the number of rounds of the run's client with the largest epsilon.
    """
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
    """The sizes of an audit."""

    rounds: int
    """Rounds of each federation."""
    federations: int
    canaries: int
    """Canaries of each federation, both in and out."""
    ins: int
    """Canaries in each federation."""

    @classmethod
    def of(
        cls, rounds: int, steps: int, canaries: int, delta: float, one_in: int = _ONE_IN, *, all_there: bool = False
    ) -> _Sizes:
        """Return the sizes for about `canaries` canaries in total; delta stays below 1 / (number of present units)."""
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
    """The attacker's score of a movement."""

    noise: float
    """Noise multiplier."""
    rate: float
    """Sampling rate."""
    scale: float
    """The divisor of a sum."""
    bound: float | None = None
    """The clipping norm, if the server does not report it."""
    replaced: bool = False

    def __call__(self, moved: Floats, bound: float) -> Floats:
        """Return the scores (m,) of canaries from the movements (m,) of their parameters."""
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
    """Run a federation of canaries; return their scores (m,) and the ledger."""
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
    """Return the lower bound on epsilon with 95 % confidence; 0 if the guesses are no better than chance.

    `scores` (m,) are the attacker's scores of the canaries; `inside` (m,) says which were in.
    """
    quarter = len(scores) // 4
    first, rest = slice(None, quarter), slice(quarter, None)
    best = (0.0, 1.0, math.inf)  # bound on the first quarter, side, threshold
    for side in (1.0, -1.0):
        wrong = side * scores[first][~inside[first] if side > 0 else inside[first]]
        if not len(wrong):
            continue
        for threshold in np.quantile(wrong, 1 - np.geomspace(1, 500, 60) / 1000):
            shown = _shown(scores[first], inside[first], side, float(threshold), delta)
            best = max(best, (shown, side, float(threshold)), key=lambda found: found[0])
    return _shown(scores[rest], inside[rest], *best[1:], delta)


def _shown(scores: Floats, inside: Coins, side: float, threshold: float, delta: float) -> float:
    """Return the bound from guessing "in" above the threshold, or for side -1 "out" for negated scores above it."""
    guessed = side * scores > threshold
    true, false = (guessed[inside], guessed[~inside]) if side > 0 else (guessed[~inside], guessed[inside])
    error = (1 - _CONFIDENCE) / 2
    hits, alarms = int(true.sum()), int(false.sum())
    least = float(beta.ppf(error, hits, len(true) - hits + 1)) if hits else 0.0
    most = float(beta.ppf(1 - error, alarms + 1, len(false) - alarms)) if alarms < len(false) else 1.0
    return math.log((least - delta) / most) if least - delta > most else 0.0
