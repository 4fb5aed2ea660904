"""`fedsim personalize`: the figures of the run itself, models that predict so, and new clients."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.config.resolve import recorded_config, resolve
from fedsim.config.run import RunConfig
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.types import Batch
from fedsim.models.build import build_model
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import load_model
from fedsim.runs.personalize import personal_ledger, personalize
from fedsim.runs.simulation import Simulation
from fedsim.training.batches import plan_batches
from tests.strategies.small_runs import BASE, OWN, assert_same_bits, begin
from tests.tiny_runs import Cli


def finished(method: str, out: Path, **more: Any) -> Path:
    overrides = {
        "strategy.name": method, "clients": 6, "clients_unseen": 2, "rounds": 2, "eval_clients": "all", "name": method,
        "out": str(out), **OWN.get(method, {}), **more,
    }  # fmt: skip
    return fedsim.run(BASE, overrides=overrides).folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Return a function from a method's name to a finished run of it."""
    known: dict[str, Path] = {}

    def get(method: str) -> Path:
        if method not in known:
            known[method] = finished(method, tmp_path_factory.mktemp("runs"))
        return known[method]

    return get


METHODS = ["fedavg", "fedrep", "fedbn", "ditto", "fedloge", "fedetf", "moon", "pefll", "pfedhn", "local"]


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", METHODS)
def test_figures_are_those_of_the_run_and_of_the_models(method: str, folders: Any) -> None:
    folder = folders(method)
    with (folder / "clients.csv").open() as file:
        known = {int(row["client"]): row for row in csv.DictReader(file)}
    made = personalize(folder, "0-5") if method != "pfedhn" else [*personalize(folder, "0-3"), *personalize(folder)]
    assert [one.client for one in made] == list(known)
    simulation = Simulation(_config(folder))
    data, dataset = simulation.data, simulation.data.dataset
    for one in made:
        row = known[one.client]
        assert one.error == ""
        assert one.group == row["group"]
        for name in ("accuracy", "accuracy_masked", "accuracy_unmasked"):
            assert repr(one.metrics[name]) == row[name]
        model = build_model(simulation.config.model, dataset.input_shape, dataset.num_classes, 0)
        model.load_state_dict({name: value.clone() for name, value in one.model.items()})
        rows = torch.from_numpy(data.client_test[one.client])
        x = (torch.from_numpy(dataset.x_test)[rows].float() / 255 - dataset.mean[0]) / dataset.std[0]
        with torch.no_grad():
            hits = model.eval()(x).argmax(1).numpy() == dataset.y_test[rows]
        assert hits.mean() == pytest.approx(one.metrics["accuracy_unmasked"])


def _config(folder: Path) -> RunConfig:
    return resolve(recorded_config(folder))


@pytest.mark.usefixtures("no_pictures")
def test_adapted_is_some_steps_of_sgd(folders: Any) -> None:
    """FedAvg's model, trained by a client for four batches of its own; checked against a plain loop."""
    folder, steps = folders("fedavg"), 4
    (start,), (one,) = personalize(folder, "5"), personalize(folder, "5", adapt_steps=steps)
    config = _config(folder)
    simulation = Simulation(config)
    training, client = config.training, simulation.worker.client
    plan = plan_batches(
        [simulation.data.partition[5]], [5], (config.seed, 0, 0), epochs=1, batch_size=training.batch_size,
        drop_single=True, steps=steps,
    )  # fmt: skip
    params = {name: value.clone() for name, value in start.model.items() if name in client.initial}
    buffers = {name: value.clone() for name, value in start.model.items() if name not in client.initial}
    momenta = {name: torch.zeros_like(value) for name, value in params.items()}
    for index in plan.index[:, 0]:
        leaves = {name: value.detach().requires_grad_() for name, value in params.items()}
        batch = Batch(*simulation.worker.train_set.batch(torch.from_numpy(index), None))
        loss = batch.loss(client.model.logits(leaves, buffers, batch.x, train=True))
        for name, gradient in zip(leaves, torch.autograd.grad(loss, list(leaves.values())), strict=True):
            momenta[name] = training.momentum * momenta[name] + gradient
            params[name] = params[name] - training.lr * momenta[name]
    for name, value in params.items():
        torch.testing.assert_close(one.model[name], value, rtol=1e-4, atol=1e-5)


@pytest.mark.usefixtures("no_pictures")
def test_what_is_personal_is_trained_and_nothing_else(folders: Any) -> None:
    (before,), (after,) = (personalize(folders("fedrep"), "5", adapt_steps=steps) for steps in (0, 5))
    assert before.untrained
    assert not after.untrained
    moved = {name for name, value in after.model.items() if not torch.equal(value, before.model[name])}
    assert moved == {"classifier.weight", "classifier.bias"} | {n for n in moved if "running" in n or "num_b" in n}
    assert not personalize(folders("fedrep"), "0")[0].untrained
    ditto = [personalize(folders("ditto"), "5", adapt_steps=steps)[0] for steps in (0, 5)]
    assert not torch.equal(ditto[0].model["classifier.weight"], ditto[1].model["classifier.weight"])


@pytest.mark.usefixtures("no_pictures")
@pytest.mark.parametrize("method", ["pefll", "fedavg"])
def test_a_new_client_with_the_data_of_another_gets_its_model(method: str, folders: Any, tmp_path: Path) -> None:
    folder = folders(method)
    data = Simulation(_config(folder)).data
    train, test, dataset = data.partition[5], data.client_test[5], data.dataset
    np.savez(
        tmp_path / "new.npz", x_train=dataset.x_train[train], y_train=dataset.y_train[train],
        x_test=dataset.x_test[test], y_test=dataset.y_test[test],
    )  # fmt: skip
    (new,), (old,) = personalize(folder, dataset=f"npz:{tmp_path / 'new.npz'}"), personalize(folder, "5")
    assert (new.client, new.group, new.samples) == (6, "new", len(train))
    assert new.metrics["accuracy_unmasked"] == old.metrics["accuracy_unmasked"]
    for name, value in old.model.items():
        assert torch.equal(new.model[name], value)


@pytest.mark.usefixtures("no_pictures")
def test_new_clients_of_a_table_have_names_and_few_classes(cli: Cli, tmp_path: Path) -> None:
    """A run on one CSV file; of another one each hospital gets a model, columns and classes being the run's."""
    rng = np.random.default_rng(0)

    def table(name: str, rows: list[tuple[str, int]]) -> Path:
        lines = [f"{3 * y + rng.normal():.3f},{'ab'[y > 0]},{hospital},{'xyz'[y]}" for hospital, y in rows]
        (tmp_path / name).write_text("\n".join(["dose,kind,hospital,outcome", *lines]) + "\n")
        return tmp_path / name

    ours = table("ours.csv", [(f"H{k % 4}", k % 3) for k in range(120)])
    done = cli(
        "run", f"--dataset=csv:{ours}", "--set=data.csv.client=hospital", "--set=data.csv.target=outcome",
        "--model=mlp", "--rounds=5", f"--out={tmp_path}", "--name=run", "--quiet",
    )  # fmt: skip
    assert (done.code, done.err) == (0, "")
    theirs = table("new.csv", [("West", 2)] * 12 + [("East", 0)] * 6 + [("East", 1)] * 6)
    (east, west) = personalize(tmp_path / "run", dataset=f"csv:{theirs}")
    assert [(one.client, one.name, one.group) for one in (east, west)] == [(4, "East", "new"), (5, "West", "new")]
    assert west.metrics["accuracy_unmasked"] > 0.6
    out = cli("personalize", tmp_path / "run", "--dataset", f"csv:{theirs}", "--adapt-steps=2").out
    head, *_ = (line.split() for line in out.splitlines() if "Client" in line)
    assert head[:4] == ["Client", "Group", "Samples", "Tests"]
    (told,) = (line.split() for line in out.splitlines() if "West" in line)
    assert told[:5] == ["5", "West", "new", str(west.samples), str(int(west.metrics["num-examples"]))]
    alone = table("alone.csv", [("", 1)] * 5).read_text().replace(",hospital,", ",").replace(",,", ",")
    (tmp_path / "alone.csv").write_text(alone)
    (one,) = personalize(tmp_path / "run", dataset=f"csv:{tmp_path / 'alone.csv'}")
    assert (one.client, one.name, one.samples + int(one.metrics["num-examples"])) == (4, "", 5)


@pytest.mark.usefixtures("no_pictures")
def test_a_new_client_with_two_classes_alone(folders: Any, tmp_path: Path) -> None:
    dataset = Simulation(_config(folders("pefll"))).data.dataset
    rows = np.isin(dataset.y_train, (3, 7))
    np.savez(tmp_path / "two.npz", x=dataset.x_train[rows], y=dataset.y_train[rows])
    (one,) = personalize(folders("pefll"), dataset=f"npz:{tmp_path / 'two.npz'}")
    assert one.error == ""
    assert one.samples + one.metrics["num-examples"] == rows.sum()


@pytest.mark.usefixtures("no_pictures")
def test_the_ledger_of_clients_models(folders: Any, tmp_path: Path) -> None:
    """What is trained on a client's samples alone is a release of its own; a new client's is not the run's."""
    folder = folders("fedavg")
    run = Ledger.read(folder)
    assert personal_ledger(folder, personalize(folder, "4")) == run
    after = personal_ledger(folder, personalize(folder, "4", adapt_steps=1))
    *before, last = after.parts
    assert before == list(run.parts)
    assert last.took_part == [0, 0, 0, 0, 1, 0]
    ditto = personal_ledger(folders("ditto"), personalize(folders("ditto"), "0,4"))
    assert ditto.parts[-1].took_part == [1, 0, 0, 0, 0, 0]
    data = Simulation(_config(folder)).data.dataset
    np.savez(tmp_path / "new.npz", x=data.x_train[:40], y=data.y_train[:40])
    new = personalize(folder, dataset=f"npz:{tmp_path / 'new.npz'}", adapt_steps=1)
    assert personal_ledger(folder, new) == run


@pytest.mark.usefixtures("no_pictures")
def test_command(folders: Any, cli: Cli, tmp_path: Path) -> None:
    folder = folders("pefll")
    outcome = cli("personalize", str(folder), "--out", str(tmp_path / "own"))
    assert outcome.code == 0
    assert "mean" in outcome.out
    assert sorted(path.name for path in (tmp_path / "own").iterdir()) == [
        "client-4.safetensors", "client-5.safetensors", "personal.csv", "privacy.json",
    ]  # fmt: skip
    data = Simulation(_config(folder)).data
    rows = data.client_test[4]
    hits = fedsim.load_model(tmp_path / "own" / "client-4.safetensors").predict(data.dataset.x_test[rows])
    with (tmp_path / "own" / "personal.csv").open() as file:
        (told, _) = csv.DictReader(file)
    assert (hits == data.dataset.y_test[rows]).mean() == pytest.approx(float(told["accuracy_unmasked"]))
    again = cli("personalize", str(folder), "--out", str(tmp_path / "own"), "--clients", "0", "-q")
    assert again.out.strip() == str(tmp_path / "own")
    assert not (tmp_path / "own" / "client-4.safetensors").exists()


def test_a_run_that_is_not_finished_is_refused(tmp_path: Path) -> None:
    folder = finished("fedavg", tmp_path)
    (folder / "summary.json").unlink()
    with pytest.raises(FedsimError, match="only a finished run has models"):
        personalize(folder)


def test_plain_models_hold_no_more_than_a_model() -> None:
    run = begin("scaffold")
    client: Client = run.simulation.worker.client
    personal = client.personal(0, run.simulation.server.first)
    plain = client.plain(run.simulation.server.first.merged(personal), {})
    assert set(plain) == set(run.simulation.server.initial())


@pytest.mark.usefixtures("no_pictures")
def test_what_was_forgotten_stays_forgotten(tmp_path: Path) -> None:
    """An outcome's model is the one that clients get, and a client whose data are gone gets none."""
    from unlearning.pipeline.runner import unlearn

    folder = finished("fedavg", tmp_path)
    outcome = unlearn(folder, ["finetune"], "client=1", name="gone").folder
    model = load_model(next(path for path in (outcome / "model.safetensors", outcome) if path.is_file()))
    (one,) = personalize(outcome, "5")
    assert_same_bits(one.model, model)
    assert not torch.equal(one.model["classifier.weight"], personalize(folder, "5")[0].model["classifier.weight"])
    with pytest.raises(FedsimError, match="client 1 has no samples"):
        personalize(outcome, "1")
    ditto = finished("ditto", tmp_path)
    outcome = unlearn(ditto, ["finetune"], "client=1", name="gone").folder
    with pytest.raises(FedsimError, match="needs more than this model, and the folder has nothing more"):
        personalize(outcome, "5")
