"""Client-level privacy: the mechanism alone, and in whole rounds. Several tests are failures of Flower's wrappers."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ConfigRecord, RecordDict

from fedsim.config.resolve import resolve
from fedsim.engine.base import Engine
from fedsim.errors import FedsimError
from fedsim.federated.types import State, Update
from fedsim.flower.records import Tensors, to_record
from fedsim.privacy.accountant import gaussian_epsilon
from fedsim.privacy.address import Secrets
from fedsim.privacy.central import UNCLIPPED, CentralPrivacy, clipped_updates, joint_norms
from fedsim.privacy.config import ClientPrivacyConfig
from fedsim.runs.simulation import Simulation
from fedsim.runs.state import RunState

START = {"w": torch.zeros(3, 4), "b": torch.zeros(())}


def updates(*norms: float, seed: int = 0) -> Update:
    """Clients whose models lie these distances from START, in random directions."""
    rng = torch.Generator().manual_seed(seed)
    sent = {n: torch.randn(len(norms), *v.shape, generator=rng) for n, v in START.items()}
    scale = torch.tensor(norms) / joint_norms(sent).float()
    sent = {n: v * scale.view(-1, *[1] * (v.dim() - 1)) for n, v in sent.items()}
    return Update(sent, State({}, {}), torch.arange(1.0, len(norms) + 1).double(), *[torch.ones(len(norms))] * 3)


def central(cohort: float = 10, **options: Any) -> CentralPrivacy:
    return CentralPrivacy(ClientPrivacyConfig(**{"noise_multiplier": 0.0, **options}), cohort, Secrets(resolve({})))


def flat(tensors: Tensors) -> torch.Tensor:
    return torch.cat([value.flatten().double() for value in tensors.values()])


# Clipping ------------------------------------------------------------------------------------------------------------


def test_updates_are_clipped_over_all_tensors_at_once_and_small_ones_left_as_they_are():
    given = updates(0.0, 1e-6, 0.5, 1.0, 7.0, 1e12)
    got = clipped_updates(given, START, 1.0, adaptive=False)
    norms = joint_norms(got.sent)
    assert (norms <= 1 + 1e-6).all()
    assert norms == pytest.approx([0, 1e-6, 0.5, 1, 1, 1], rel=1e-5)  # a zero update does not crash
    for row in (0, 1, 2):
        assert all(torch.equal(got.sent[n][row], given.sent[n][row]) for n in START)
    for row in (4, 5):  # the direction stays, that of the 0-d parameter included
        one, other = (torch.cat([v[row].flatten() for v in u.sent.values()]) for u in (got, given))
        torch.testing.assert_close(one / one.norm(), other / other.norm())
    assert got.weights.tolist() == [1.0] * 6


def test_a_scalar_parameter_is_clipped():
    got = clipped_updates(
        updates(1.0)._replace(sent={"w": torch.zeros(1, 3, 4), "b": torch.tensor([5.0])}), START, 1.0, adaptive=False
    )
    assert got.sent["b"].item() == pytest.approx(1.0)


def test_what_is_no_part_of_the_global_model_is_refused():
    with pytest.raises(ValueError, match="not labels"):
        clipped_updates(updates(1.0)._replace(sent={**START, "labels": torch.ones(1)}), START, 1.0, adaptive=False)


@pytest.mark.parametrize("adaptive", [False, True])
def test_no_client_moves_the_sum_by_more_than_the_sensitivity(adaptive):
    """All ways to leave one of five clients out, with updates from nothing to enormous, in chunks of any size."""
    clip_norm, clients = 0.7, 5
    largest = 0.0
    for seed, norms in enumerate(itertools.product([0.0, 0.69, 0.71, 1e8], repeat=2)):
        sent = clipped_updates(updates(*norms, 0.3, 0.9, 5.0, seed=seed), START, clip_norm, adaptive=adaptive).sent

        def total(rows: list[int], sent: Tensors = sent) -> torch.Tensor:
            return flat({name: value[rows].double().sum(0) for name, value in sent.items()})

        for left_out in range(clients):
            rest = [row for row in range(clients) if row != left_out]
            difference = total(list(range(clients))) - total(rest)
            bit = 0.5 if adaptive else 0.0
            assert difference.norm() <= (clip_norm**2 + bit**2) ** 0.5 * (1 + 1e-6)
            largest = max(largest, float(difference.norm()))
    assert largest == pytest.approx((clip_norm**2 + (0.25 if adaptive else 0.0)) ** 0.5, rel=1e-6)  # it is attained


# Noise ---------------------------------------------------------------------------------------------------------------


def test_the_released_mean_has_noise_of_the_stated_size_new_in_every_round_and_tensor():
    current = {"a": torch.zeros(100_000), "b": torch.zeros(400, 250)}
    private = central(noise_multiplier=1.5, clip_norm=2.0, cohort=20)
    rounds = [private.aggregate(current, iter(()), number) for number in (1, 2)]
    draws = [value.flatten() for tensors in rounds for value in tensors.values()]
    for draw in draws:
        assert float(draw.std()) == pytest.approx(1.5 * 2.0 / 20, rel=0.01)  # four deviations
        assert float(draw.mean()) == pytest.approx(0, abs=4 * 0.15 / 100_000**0.5)
        assert float((draw.abs() > 2 * 0.15).float().mean()) == pytest.approx(0.0455, rel=0.05)  # it is Gaussian
    for one, other in itertools.combinations(draws, 2):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / 100_000**0.5
    again = central(noise_multiplier=1.5, clip_norm=2.0, cohort=20).aggregate(current, iter(()), 2)
    assert all(torch.equal(again[name], rounds[1][name]) for name in current)


def test_the_denominator_is_fixed_and_chunks_weigh_by_their_clients():
    current = {"w": torch.ones(2)}
    chunks = [({"w": torch.tensor([1.0, 0.0])}, 3.0), ({"w": torch.tensor([0.0, 2.0])}, 1.0)]
    moved = central(cohort=8).aggregate(current, iter(chunks), 1)
    assert moved["w"].tolist() == [1 + 3 / 8, 1 + 2 / 8]


# Adaptive clipping ---------------------------------------------------------------------------------------------------


def adapt(norms: list[float], rounds: int, **options: Any) -> list[float]:
    private = central(cohort=len(norms), clipping="adaptive", **options)
    seen = []
    for number in range(rounds):
        sent = clipped_updates(updates(*norms, seed=number), START, private.clip_norm, adaptive=True).sent
        chunk = {name: value.mean(0) for name, value in sent.items()}
        private.aggregate(START, iter([(chunk, float(len(norms)))]), number)
        seen.append(private.clip_norm)
    return seen


def test_the_clipping_norm_rises_while_all_are_clipped_and_falls_while_none_is():
    assert adapt([10.0] * 4, 3, clip_norm=0.1) == pytest.approx([0.1 * np.exp(0.2 * 0.5 * k) for k in (1, 2, 3)])
    assert adapt([0.01] * 4, 3, clip_norm=0.1) == pytest.approx([0.1 * np.exp(-0.2 * 0.5 * k) for k in (1, 2, 3)])


@pytest.mark.parametrize(("gamma", "noise"), [(0.25, 0.0), (0.75, 0.0), (0.5, 1.0)])
def test_the_clipping_norm_finds_the_quantile(gamma, noise):
    norms = np.linspace(1, 3, 101).tolist()
    tail = adapt(norms, 120, clip_norm=10.0, target_quantile=gamma, noise_multiplier=noise)[80:]
    assert np.mean(tail) == pytest.approx(1 + 2 * gamma, abs=0.15)


def test_both_releases_together_cost_what_is_stated():
    private = central(cohort=100, noise_multiplier=1.3, clipping="adaptive")
    assert private.sigma_b == 5
    joint_mu = np.hypot(1 / private.noise_multiplier, 0.5 / private.sigma_b)  # sensitivities over deviations
    assert gaussian_epsilon(float(joint_mu), 1e-5) == pytest.approx(gaussian_epsilon(1 / 1.3, 1e-5))
    assert private.noise_multiplier > 1.3
    with pytest.raises(FedsimError, match=r"quantile_noise: must be above half of noise_multiplier 1\.3, got 0\.5"):
        central(cohort=10, noise_multiplier=1.3, clipping="adaptive")


def test_the_count_of_unclipped_clients_is_noised():
    bit = {**START, UNCLIPPED: torch.tensor(0.5)}
    shares = []
    for number in range(400):
        private = central(cohort=50, clipping="adaptive", noise_multiplier=1.0, clip_lr=1.0)
        private.aggregate(START, iter([(bit, 50.0)]), number)
        shares.append(0.5 - np.log(private.clip_norm))
    assert np.mean(shares) == pytest.approx(1, abs=0.02)
    assert np.std(shares) == pytest.approx(50 / 20 / 50, rel=0.15)


# Whole rounds --------------------------------------------------------------------------------------------------------

TINY = {
    "clients": 6, "rounds": 3, "eval_every": 100, "model": {"name": "mlp", "hidden": [32]},
    "data": {"max_per_class": 12}, "training": {"epochs": 1, "vectorize": "never", "chunk": 4},
}  # fmt: skip


def begin(privacy: dict[str, Any], changes: dict[str, Any] | None = None) -> tuple[Simulation, RunState, Engine]:
    simulation = Simulation(resolve(TINY, {"privacy": {"client": privacy}}, changes or {}))
    return simulation, simulation.begin(), simulation.engine()


def test_clients_count_alike_whatever_they_hold():
    simulation, state, engine = begin({"noise_multiplier": 0, "clip_norm": 0.05})
    assert len(set(simulation.data.partition.sizes)) > 1
    before = state.tensors
    simulation.step(state, engine)
    plain = resolve(TINY, {"training.chunk": 1})
    config = ConfigRecord({"server-round": 1, "reply": "updates"})
    content = RecordDict({"arrays": to_record(before), "config": config})
    worker = Simulation(plain).worker
    replies = worker.run_chunk("train", [content] * 6, range(6), [RecordDict()] * 6)
    deltas = []
    for reply in replies:
        assert reply.content is not None
        sent = {n: a.tensor for n, a in reply.content.array_records["arrays"].items()}  # type: ignore[attr-defined]
        delta = flat(sent) - flat(before)
        deltas.append(delta * min(1.0, 0.05 / float(delta.norm())))
    expected = flat(before) + torch.stack(deltas).sum(0) / 6
    torch.testing.assert_close(flat(state.tensors), expected, rtol=0, atol=1e-6)
    assert float((flat(state.tensors) - flat(before)).norm()) <= 0.05


@pytest.mark.parametrize("vectorize", ["always", "never"])
def test_the_round_has_the_same_result_however_it_is_cut(vectorize):
    whole = begin({"noise_multiplier": 1.0}, {"training.chunk": 6})
    other = begin({"noise_multiplier": 1.0}, {"training.chunk": 2, "training.vectorize": vectorize})
    for simulation, state, engine in (whole, other):
        simulation.step(state, engine)
    torch.testing.assert_close(flat(whole[1].tensors), flat(other[1].tensors), rtol=1e-4, atol=1e-4)


def test_a_round_goes_on_when_clients_fail_or_none_is_drawn():
    simulation, state, engine = begin({"noise_multiplier": 1.0}, {"faults.dropout": 0.5})
    simulation.step(state, engine)
    assert 0 < state.failures < 6
    simulation, state, engine = begin({"noise_multiplier": 1.0, "clip_norm": 0.5}, {"cohort": 1, "rounds": 30})
    sizes = []
    for _ in range(30):
        before = state.tensors
        simulation.step(state, engine)
        sizes.append(len(engine.cohort or []))
        assert not torch.equal(flat(before), flat(state.tensors))  # noise, even of an empty cohort
    assert min(sizes) == 0
    assert max(sizes) > 1


def test_the_clipping_norm_is_part_of_a_checkpoint(tmp_path):
    from fedsim.runs.checkpoint import load_latest

    adaptive = {"noise_multiplier": 0.3, "clipping": "adaptive", "quantile_noise": 1.0}
    simulation, state, engine = begin(adaptive, {"rounds": 4})
    for _ in range(2):
        simulation.step(state, engine)
    simulation.checkpoint(state, engine).save(tmp_path)
    norms = [simulation.step(state, engine)["privacy/next_clip_norm"] for _ in range(2)]
    resumed, other, grid = begin(adaptive, {"rounds": 4})
    checkpoint = load_latest(tmp_path)
    assert checkpoint is not None
    other = resumed.restore(checkpoint, grid)
    assert [resumed.step(other, grid)["privacy/next_clip_norm"] for _ in range(2)] == norms
    assert other.ledger == state.ledger
    assert torch.equal(flat(other.tensors), flat(state.tensors))


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"model.norm": "batch"}, r"privacy\.client: BatchNorm mixes .* set model\.norm=group"),
        ({"strategy": "krum"}, r"privacy\.client: krum does not average"),
        ({"strategy": "fedadam"}, r"privacy\.client: fedadam does not average"),
        ({"strategy": "qfedavg"}, r"privacy\.client: qfedavg steers its model by clients' metrics"),
        ({"privacy.client.noise_multiplier": None}, r"privacy\.client: needs noise_multiplier or target_epsilon"),
        ({"privacy.client.target_epsilon": 3.0}, r"privacy\.client: needs noise_multiplier or target_epsilon"),
        ({"privacy.client.delta": 0.2}, r"privacy\.client\.delta: must be below one over clients \(0\.16"),
        ({"privacy.client.clip_norm": 0}, r"privacy\.client\.clip_norm: must be greater than 0, got 0"),
    ],
)
def test_what_would_break_the_guarantee_is_refused_in_one_line(changes, line):
    with pytest.raises(FedsimError, match=line):
        begin({"noise_multiplier": 1.0}, changes)


@pytest.mark.parametrize("strategy", ["fedprox", "ditto", "fedrep", "fedetf", "fedloge"])
def test_every_method_that_averages_can_be_private(strategy):
    simulation, state, engine = begin({"noise_multiplier": 0.0, "clip_norm": 1e-4}, {"strategy": strategy})
    before = state.tensors
    simulation.step(state, engine)
    assert 0 < float((flat(state.tensors) - flat(before)).norm()) <= 1.01e-4
