"""Forgetting a client with the help of the federation: the identities that hold exactly, and the seam."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import fedsim
from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.runs.history import norm
from tests.tiny_runs import TINY, Cli
from unlearning.api.federation import Federation
from unlearning.api.needs import Needs
from unlearning.api.registry import load_unlearning
from unlearning.federaser import rescaled
from unlearning.pipeline.apply import options_of
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.source import Source, open_source

ALL = Needs(history=True, updates=True, clients=True)
RUN = {**TINY, "cohort": 3, "rounds": 4, "history": {"keep": "updates"}}


def train(out: Path, **overrides: Any) -> Source:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("fedsim.runs.runner._write_pictures", lambda folder: None)
        return open_source(fedsim.run(RUN, overrides={"out": str(out), **overrides}).folder)


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Source:
    """Return a run in which three of six clients take part in each of four rounds."""
    return train(tmp_path_factory.mktemp("runs"))


def federation(source: Source, *leaving: int, needs: Needs = ALL) -> Federation:
    left = source.data
    for client in leaving:
        left = left.without(source.data.partition[client])
    return Federation(source.config, source.data, left, source.folder.path, needs)


def late_client(source: Source) -> int:
    """Return the client whose first round is the last."""
    return max(range(6), key=lambda client: federation(source, client).first_round() % 5)  # 5: in no round


def apply(name: str, fed: Federation, **options: Any) -> Tensors:
    method = load_unlearning(name)
    with fed:
        return method.unlearn(fed, options_of(method, options))  # type: ignore[call-arg,arg-type,return-value]


def largest_gap(one: Tensors, two: Tensors) -> float:
    return max(float((one[name].double() - two[name].double()).abs().max()) for name in two)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"history": {"keep": "norms", "every": 2}},
        {"strategy": "fedavgm"},  # a server with momentum
        {"strategy": "ditto"},  # clients with a state of their own
        {"faults.error": 0.2, "seed": 1},
    ],
)
def test_retraining_from_a_checkpoint_is_retraining_from_scratch(tmp_path: Path, options: dict[str, Any]) -> None:
    source = train(tmp_path, **options)
    leaving = late_client(source)
    fed = federation(source, leaving, needs=Needs(history=True, clients=True))
    assert fed.first_round() > 1
    tensors = apply("retrain_checkpoint", fed)
    oracle = retrained(source, fed.left, source.config.seed, "oracles")
    assert all(torch.equal(value, tensors[name]) for name, value in oracle.model.state_dict().items())
    rounds = 4 if source.config.strategy.name == "ditto" else None
    assert fed.costs()["rounds"] in ({rounds} if rounds else range(4))


@pytest.mark.parametrize("options", [{}, {"model": {"name": "mlp", "norm": "batch"}}, {"strategy": "fedavgm"}])
def test_with_nobody_to_forget_the_stored_updates_add_up_to_the_model(tmp_path: Path, options: dict[str, Any]) -> None:
    source = train(tmp_path, **options)
    for renormalize in (True, False):
        tensors = apply("fedaccum", federation(source), renormalize=renormalize)
        assert largest_gap(tensors, source.model.state_dict()) <= 1e-6


# BatchNorm over batches of ten makes 1e-4 of a rounding in float32.
@pytest.mark.parametrize("options", [{}, {"model": {"name": "mlp", "norm": "batch"}, "training.precision": "float64"}])
@pytest.mark.parametrize("scale", ["client", "layer"])
def test_with_nobody_to_forget_full_calibration_replays_the_run(
    tmp_path: Path, options: dict[str, Any], scale: str
) -> None:
    source = train(tmp_path, **options, **{"training.epochs": 2})
    tensors = apply("federaser", federation(source), calibration=1.0, scale=scale)
    assert largest_gap(tensors, source.model.state_dict()) <= 1e-6
    half = apply("federaser", federation(source), calibration=0.5, scale=scale)
    assert largest_gap(half, source.model.state_dict()) > 1e-3


def test_clients_that_send_differences(tmp_path: Path) -> None:
    """FedNova's send normalised gradients: history, FedEraser and FedAccum read them as such."""
    source = train(tmp_path, strategy="fednova", **{"training.epochs": 2})
    for method, options in (("fedaccum", {}), ("federaser", {"calibration": 1.0})):
        assert largest_gap(apply(method, federation(source), **options), source.model.state_dict()) <= 1e-6
    fed = federation(source, 1)
    first = fed.rounds[0]
    client, theta = first.staying[0], first.model()
    moved = fed.update(first.sent(client), theta)
    sent = dict(fed.train(theta, 1, [client]))[client]
    assert first.clients[client].norm == pytest.approx(norm(moved), rel=1e-6)
    assert norm(moved) > 2 * norm({name: sent.tensors[name] for name in theta})  # of more than two steps
    with pytest.raises(FedsimError, match="needs clients that send models"):
        apply("fedaccum", fed, renormalize=False)
    assert largest_gap(apply("federaser", federation(source, 1)), source.model.state_dict()) < 1


@pytest.mark.parametrize("strategy", ["fedavg", "fedavgm"])
def test_samples_of_clients_that_stay(tmp_path: Path, strategy: str) -> None:
    """Half of a client's samples: a replay is retraining, and what was sent with them is not looked at."""
    source = train(tmp_path, strategy=strategy)
    half = source.data.partition[2][::2]
    fed = Federation(source.config, source.data, source.data.without(half), source.folder.path, ALL)
    assert (fed.forgotten, fed.touched) == (frozenset(), frozenset({2}))
    tensors = apply("retrain_checkpoint", fed)
    oracle = retrained(source, fed.left, source.config.seed, "oracles")
    assert all(torch.equal(value, tensors[name]) for name, value in oracle.model.state_dict().items())
    for file in source.folder.path.glob("history/*/client-2.safetensors"):
        file.unlink()
    for method in ("federaser", "fedaccum"):
        again = Federation(source.config, source.data, source.data.without(half), source.folder.path, ALL)
        assert all(value.isfinite().all() for value in apply(method, again).values())


def test_calibration_is_a_share_of_steps_or_epochs(tmp_path: Path) -> None:
    steps = train(tmp_path / "steps", **{"training.steps": 4})
    few, many = (apply("federaser", federation(steps, 1), calibration=share) for share in (0.25, 1.0))
    assert largest_gap(few, many) > 1e-3
    epochs = train(tmp_path / "epochs", **{"training.epochs": 2})
    with pytest.raises(FedsimError, match=r"0.1 of 2 epochs is less than one; give at least 0.5"):
        apply("federaser", federation(epochs, 1), calibration=0.1)


def test_history_subtraction_is_the_model_less_the_weighted_updates(kept: Source) -> None:
    fed = federation(kept, 1)
    expected = {name: value.double() for name, value in fed.final().items()}
    for kept_round in fed.rounds:
        before, total = kept_round.model(), sum(share.weight or 0 for share in kept_round.clients.values())
        if 1 in kept_round.clients:
            sent, share = kept_round.sent(1), kept_round.clients[1].weight or 0
            for name in expected:
                expected[name] -= share / total * (sent.tensors[name].double() - before[name].double())
    assert largest_gap(apply("fedaccum", federation(kept, 1), renormalize=False), expected) <= 1e-6
    assert largest_gap(apply("fedaccum", federation(kept, 1)), expected) > 1e-3


def test_federaser_by_hand(kept: Source) -> None:
    """The first round as stored, then unit directions times stored lengths, weighted by samples."""
    fed = federation(kept, 1)
    rounds = fed.rounds
    stored = {client: rounds[0].sent(client) for client in rounds[0].staying}
    total = sum(sent.metrics["weight"] for sent in stored.values())
    theta = {
        name: sum(s.metrics["weight"] / total * s.tensors[name] for s in stored.values()) for name in rounds[0].model()
    }
    for kept_round in rounds[1:]:
        old, step = kept_round.model(), {name: torch.zeros_like(value) for name, value in theta.items()}
        weights = {client: kept_round.clients[client].weight or 0 for client in kept_round.staying}
        for client, sent in fed.train(theta, kept_round.number, kept_round.staying):
            fresh = {name: sent.tensors[name] - theta[name] for name in theta}
            length = norm({name: kept_round.sent(client).tensors[name] - old[name] for name in theta})
            for name, value in fresh.items():
                step[name] += weights[client] / sum(weights.values()) * length * value / norm(fresh)
        theta = {name: value + step[name] for name, value in theta.items()}
    assert largest_gap(apply("federaser", federation(kept, 1), calibration=1.0), theta) <= 1e-5


def test_lengths_are_of_a_client_or_of_each_tensor() -> None:
    stored, fresh = ({"a": torch.tensor([3.0]), "b": torch.tensor([4.0])} for _ in range(2))
    fresh = {"a": torch.tensor([0.0, 1.0]), "b": torch.tensor([1.0, 0.0])}
    whole, each = (rescaled(stored, fresh, scale) for scale in ("client", "layer"))
    assert torch.allclose(whole["a"], torch.tensor([0.0, 5 / 2**0.5]))
    assert torch.allclose(each["a"], torch.tensor([0.0, 3.0]))
    assert torch.allclose(each["b"], torch.tensor([4.0, 0.0]))
    still = {name: torch.zeros_like(value) for name, value in fresh.items()}
    assert all(value.isfinite().all() for value in rescaled(stored, still, "layer").values())


def test_only_those_that_stay_are_woken_and_read(kept: Source, tmp_path: Path) -> None:
    """With what client 1 sent removed, nothing changes for the methods that forget it."""
    copied = open_source(shutil.copytree(kept.folder.path, tmp_path / "run"))
    for file in copied.folder.path.glob("history/*/client-1.safetensors"):
        file.unlink()
    for name in ("federaser", "fedaccum"):
        one, two = federation(kept, 1), federation(copied, 1)
        assert largest_gap(apply(name, one), apply(name, two)) == 0
    took_part = sum(len(kept_round.staying) for kept_round in federation(kept, 1).rounds[1:])
    fed = federation(kept, 1)
    apply("federaser", fed)
    assert fed.costs()["clients_woken"] == took_part
    with pytest.raises(FedsimError, match=r"client-1.safetensors: is not what the run kept"):
        apply("fedaccum", federation(copied, 2))


def test_not_in_the_federation(kept: Source) -> None:
    still = apply("not_federated", federation(kept, 1, needs=Needs(clients=True)), rounds=0, layers=0)
    assert largest_gap(still, kept.model.state_dict()) == 0
    negated = apply("not_federated", federation(kept, 1), rounds=0)
    changed = {name for name, value in negated.items() if not torch.equal(value, still[name])}
    assert len(changed) == 2
    assert all(torch.equal(negated[name], -still[name]) for name in changed)
    fed = federation(kept, 1)
    assert largest_gap(apply("not_federated", fed, rounds=2), negated) > 1e-3
    assert (fed.costs()["rounds"], fed.costs()["clients_woken"]) == (2, 6)


def test_a_method_gets_what_it_declared(kept: Source) -> None:
    nothing, models = federation(kept, 1, needs=Needs()), federation(kept, 1, needs=Needs(history=True))
    with pytest.raises(TypeError, match=r"Needs\(history=True\)"):
        _ = nothing.rounds
    with pytest.raises(TypeError, match=r"Needs\(updates=True\)"):
        models.rounds[0].sent(models.rounds[0].staying[0])
    with pytest.raises(TypeError, match=r"Needs\(clients=True\)"):
        list(models.train(models.rounds[0].model(), 1, [0]))
    with pytest.raises(TypeError, match=r"Needs\(clients=True\)"):
        models.replay(models.rounds[0])


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--method fedaccum --forget random=0.9", "every client has samples to forget, so no stored update is free"),
        ("--method federaser --forget client=1 --set calibration=2", "federaser.calibration: must be at most 1, got 2"),
    ],
)
def test_requests_that_cannot_be_served(cli: Cli, kept: Source, arguments: str, line: str) -> None:
    told = cli("unlearn", kept.folder.path, *arguments.split())
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert line in told.err
    assert not (kept.folder.path / "unlearned").exists()


@pytest.mark.parametrize(
    ("history", "method", "line"),
    [
        ({"keep": "none"}, "retrain_checkpoint", "needs the models of all rounds, which are not kept here"),
        ({"keep": "norms"}, "federaser", "needs what clients sent, which is not kept here"),
        ({"keep": "updates", "every": 2}, "fedaccum", "adds up every round, and not all were kept"),
    ],
)
def test_runs_that_have_not_kept_enough(
    cli: Cli, tmp_path: Path, history: dict[str, Any], method: str, line: str
) -> None:
    source = train(tmp_path, history=history)
    told = cli("unlearn", source.folder.path, "--forget", "client=1", "--method", *method.split())
    assert (told.code, told.err.count("\n")) == (2, 1)
    assert line in told.err
    assert not (source.folder.path / "unlearned").exists()


def test_from_the_command_line_with_a_purge(cli: Cli, kept: Source, tmp_path: Path) -> None:
    run = shutil.copytree(kept.folder.path, tmp_path / "run")
    told = cli(
        "unlearn", run, "--method", "federaser,retrain_checkpoint", "--forget", "client=1", "--compare", "retrain",
        "--seeds", "2", "--purge",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "deleted: " in told.out
    assert "Clients woken" in told.out
    comparison = read_comparison(run / "unlearned" / "federaser-retrain-checkpoint-client-1")
    exact = comparison.best
    assert (exact.name, exact.mean("average_gap"), exact.metrics["average_gap"].seeds) == ("retrain_checkpoint", 0, 2)
    assert exact.mean("rounds") <= 4
    assert exact.mean("history_mb") > 0
    stored = [str(path) for path in run.rglob("client-*.safetensors")]
    assert any(str(run / "history") in path for path in stored)  # of the replay
    assert not any("client-1." in path for path in stored)
    assert not list((run / "unlearned" / "originals").glob("*"))  # of the second seed
    assert not list((run / "unlearned" / "oracles").glob("*/history"))
