"""A deletion lasts: nothing in the folder gives a contribution back, and no later command looks at what is gone."""

import itertools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import fedsim
from fedsim.data.datasets import Dataset, load_dataset
from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.privacy.ledger import Ledger
from fedsim.runs.checkpoint import load_model
from fedsim.runs.folder import RunFolder
from fedsim.runs.history import KeptRound, norm, round_folders
from fedsim.sealed import seal, unseal
from tests.tiny_runs import TINY, Cli
from unlearning.pipeline import deletion, deletions, purge
from unlearning.pipeline.deletions import read_deletions, read_receipts, verify
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source

RUN: dict[str, Any] = {**TINY, "cohort": 4, "rounds": 4, "history": {"keep": "updates"}}


def run(out: Path, **overrides: Any) -> Path:
    return fedsim.run(RUN, overrides={"out": str(out), **overrides}).folder


def bits(folder: Path) -> Tensors:
    return load_model(folder / "model.safetensors")


def same(one: Tensors, two: Tensors) -> bool:
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def sent_by(folder: Path, client: int) -> list[tuple[int, Tensors]]:
    """What a client sent, by round, as far as the history has it."""
    rounds = [KeptRound(path) for _, path in round_folders(folder)]
    return [(kept.number, kept.sent(client).tensors) for kept in rounds if client in kept.clients]


def reconstructed(folder: Path, server_round: int, client: int, weight: float) -> Tensors | None:
    """Solve the weighted mean of a round for what one client sent: the attack that a purge has to survive."""
    folders = dict(round_folders(folder))
    if server_round not in folders:
        return None
    kept = KeptRound(folders[server_round])
    try:
        following = KeptRound(folders[server_round + 1]).model()[0] if server_round + 1 in folders else bits(folder)
        others = {other: kept.sent(other) for other in kept.clients if other != client}
    except FedsimError:
        return None
    total = weight + sum(sent.metrics["weight"] for sent in others.values())
    solved = {}
    for name, value in following.items():
        if all(name in sent.tensors for sent in others.values()):
            rest = sum(sent.metrics["weight"] * sent.tensors[name].double() for sent in others.values())
            solved[name] = (total * value.double() - rest) / weight
    return solved


def error(guess: Tensors | None, truth: Tensors, start: Tensors) -> float:
    """The relative error of a guessed update; 1 where there is no guess, which is that of guessing nothing moved."""
    if guess is None:
        return 1.0
    update = {name: truth[name].double() - start[name].double() for name in guess if name in truth}
    miss = {name: guess[name] - truth[name].double() for name in update}
    return norm(miss) / norm(update)


_STRATEGIES = ("fedavg", "scaffold", "fednova", "ditto", "fedadam")
_ALL = [(strategy, keep) for strategy in _STRATEGIES for keep in ("updates", "norms")]
_QUICK = (("fedavg", "updates"), ("ditto", "norms"))


@pytest.mark.parametrize(
    ("strategy", "keep"), [case if case in _QUICK else pytest.param(*case, marks=pytest.mark.slow) for case in _ALL]
)
def test_nothing_gives_a_purged_contribution_back(tmp_path: Path, strategy: str, keep: str, no_pictures: None) -> None:
    folder = run(tmp_path, strategy=strategy, **{"history.keep": "updates"})
    client = next(iter(KeptRound(round_folders(folder)[0][1]).clients))
    truth = sent_by(folder, client)
    starts = {number: KeptRound(path).model()[0] for number, path in round_folders(folder)}
    weights = {number: KeptRound(path).clients[client].weight for number, path in round_folders(folder)
               if client in KeptRound(path).clients}  # fmt: skip
    if keep == "norms":  # the same run, bit for bit, that has kept less
        folder = run(tmp_path / "norms", strategy=strategy, **{"history.keep": "norms"})
    elif strategy == "fedavg":
        number, sent = truth[0]
        before = error(reconstructed(folder, number, client, weights[number] or 0), sent, starts[number])
        assert before < 1e-3  # the attack works where nothing was purged
    source = open_source(folder)
    rows = source.data.dataset.x_train[source.data.partition[client]]
    counts = RunFolder.open(folder).label_counts
    assert counts is not None
    never = retrained(source, source.data.without(source.data.partition[client]), 0, "oracles", history=True).folder
    unlearn(folder, ["retrain_checkpoint"], f"client={client}", purge=True)
    for number, sent in truth:
        # Where others move alike, their mean is some guess: no better than in a run that has never had this client.
        guesses = (reconstructed(place, number, client, weights[number] or 0) for place in (folder, never))
        after, null = (error(guess, sent, starts[number]) for guess in guesses)
        assert after >= min(1, null)
        assert null > 0.5
    needles = [bytes(row.tobytes()) for row in rows if row.any()]
    needles += [
        value.contiguous().numpy().tobytes() for _, sent in truth for value in sent.values() if value.numel() > 9
    ]
    needles += [counts[client].tobytes()]
    content = [path.read_bytes() for path in folder.rglob("*") if path.is_file()]
    assert not any(needle in part for needle in needles for part in content)
    assert RunFolder.open(folder).label_counts[client].sum() == 0  # type: ignore[index]
    assert not any(path.name.startswith(f"client-{client}.") for path in folder.rglob("*"))
    assert open_source(folder).history.keep == keep  # of the replay


def forgetting(folder: Path, method: str = "retrain") -> None:
    for spec in ("client=3", "client=5", "class=2"):
        unlearn(folder, [method], spec, purge=True)


def blind(monkeypatch: pytest.MonkeyPatch, rows: np.ndarray) -> None:
    """Replace these training rows by noise, labels included, wherever the data set is loaded."""
    rng = np.random.default_rng(0)

    def loaded(*arguments: Any) -> Dataset:
        dataset = load_dataset(*arguments)
        x, y = dataset.x_train.copy(), dataset.y_train.copy()
        x[rows] = rng.integers(0, 256, x[rows].shape)
        y[rows] = rng.integers(0, 10, len(rows))
        return replace(dataset, x_train=x, y_train=y, mean=(rng.random(),), std=(rng.random() + 0.1,))

    for module in ("fedsim.runs.frozen", "fedsim.data.federation"):
        monkeypatch.setattr(f"{module}.load_dataset", loaded)


def test_forgetting_in_sequence_then_more_rounds_is_never_having_known(
    tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And every forgotten row may be noise from the command after the one that forgot it: nobody looks at them."""
    folder = run(tmp_path)
    whole = open_source(folder).data
    class_two = np.intersect1d(whole.partition.indices, np.flatnonzero(whole.dataset.y_train == 2))
    gone = np.empty(0, np.int64)
    for spec, rows in (("client=3", whole.partition[3]), ("client=5", whole.partition[5]), ("class=2", class_two)):
        unlearn(folder, ["retrain"], spec, purge=True)
        gone = np.union1d(gone, rows)
        with monkeypatch.context() as patch:
            blind(patch, gone)
            assert open_source(folder).data.content_hash == RunFolder.open(folder).environment["data_sha256"]
    never = replace(whole.without(gone))
    config = open_source(folder).config.model_copy(update={"rounds": 6})
    from fedsim.runs.simulation import Simulation

    simulation = Simulation(config, data=never)
    state, engine = simulation.begin(), simulation.engine()
    for _ in range(6):
        simulation.step(state, engine)
    with monkeypatch.context() as patch:
        blind(patch, gone)
        fedsim.resume(folder, rounds=6)
        assert same(bits(folder), state.tensors)
        with pytest.raises(FedsimError, match="nothing to forget; forgotten before: client=3, client=5, class=2"):
            unlearn(folder, ["retrain"], "client=3")
        again = unlearn(folder, ["retrain"], "client=0")
    oracle = Simulation(config, data=never.without(whole.partition[0]))
    last, engine = oracle.begin(), oracle.engine()
    for _ in range(6):
        oracle.step(last, engine)
    assert same(bits(again.folder), last.tensors)
    assert read_deletions(folder).specs == ["client=3", "client=5", "class=2"]
    assert read_deletions(folder).clients == [3, 5]


@pytest.mark.slow
def test_an_outcome_trains_on_in_a_run_of_its_own(cli: Cli, tmp_path: Path, no_pictures: None) -> None:
    folder = run(tmp_path)
    source = open_source(folder)
    outcome = unlearn(folder, ["retrain_checkpoint"], "client=3", name="exact").folder
    told = cli("run", "--resume", outcome, "--rounds", "6", "--quiet")
    assert told.code == 0, told.err
    longer = fedsim.run(RUN, overrides={"out": str(tmp_path), "name": "longer", "rounds": 6}).folder
    exact = unlearn(longer, ["retrain"], "client=3").folder
    continued = tmp_path / "tiny-exact"
    assert same(bits(continued), bits(exact))
    assert open_source(continued).data.partition.sizes[3] == 0
    assert source.data.partition.sizes[3] > 0
    assert "forgotten before: client=3" in cli("unlearn", continued, "--method=finetune", "--forget=client=3").err
    plain = unlearn(folder, ["finetune"], "client=3", name="plain").folder
    assert cli("run", "--resume", plain, "--rounds", "5", "--quiet").code == 0
    assert "give more, got 4" in cli("run", "--resume", plain, "--rounds", "4").err
    assert "say with --rounds" in cli("run", "--resume", plain).err


def test_a_finished_run_goes_on_to_more_rounds(cli: Cli, tmp_path: Path, no_pictures: None) -> None:
    folder = run(tmp_path)
    assert cli("run", "--resume", folder, "--rounds", "6", "--quiet").code == 0
    longer = fedsim.run(RUN, overrides={"out": str(tmp_path), "name": "longer", "rounds": 6}).folder
    assert same(bits(folder), bits(longer))
    assert RunFolder.open(folder).rounds == 6
    assert "has done 6; give more, got 6" in cli("run", "--resume", folder, "--rounds", "6").err


@pytest.fixture
def purged(tiny_run: Path, tmp_path: Path, no_pictures: None) -> Path:
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    unlearn(folder, ["finetune"], "client=4")
    unlearn(folder, ["finetune"], "client=2", purge=True, command="fedsim unlearn")
    unlearn(folder, ["finetune"], "client=1", purge=True)
    return folder


def test_a_dry_run_lists_and_changes_nothing(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    told = cli("unlearn", folder, "--method=finetune", "--forget=client=2", "--purge", "--dry-run")
    assert told.code == 0, told.err
    assert "checkpoints" in told.out
    assert "partition.npz" in told.out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_what_a_run_has_shown_stays_told_when_it_goes_on(cli: Cli, tiny_run: Path, tmp_path: Path) -> None:
    """After a purge, and in a run of an outcome's own: what was released before, by the method, and since."""
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    before = Ledger.read(folder)
    plain = unlearn(folder, ["finetune"], "client=1", name="plain").folder
    assert cli("run", "--resume", plain, "--rounds", "5", "--quiet").code == 0
    unlearn(folder, ["finetune"], "client=2", purge=True)
    told = cli("run", "--resume", folder, "--rounds", "5", "--quiet")
    assert told.code == 0, told.err
    for run in (folder, tmp_path / "tiny-plain"):
        first, method, since = Ledger.read(run).parts
        assert (first.rounds, first.took_part) == (before.rounds, before.took_part)
        assert "finetune" in method.releases[0].note + method.releases[0].what
        assert since.rounds == 5 - before.rounds


class _Killed(BaseException):
    pass


def _killed_at(monkeypatch: pytest.MonkeyPatch, number: int, work: Callable[[], object]) -> bool:
    """Whether the work was cut off at its file operation of that number; it is over where it has fewer."""
    calls = itertools.count()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == number:
                raise _Killed
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        for module, name in _OPERATIONS:
            patch.setattr(module, name, counted(getattr(module, name)))
        try:
            work()
        except _Killed:
            return True
    return False


_OPERATIONS = [
    (purge, "_remove"), (purge, "freeze"), (purge, "write_atomically"), (purge.shutil, "copyfile"),
    (deletions, "write_atomically"), (deletions, "write_page"),
]  # fmt: skip


def test_a_purge_that_is_killed_is_told_of_and_ended(
    cli: Cli, tiny_run: Path, tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it is cut off, the command that ends it leaves what an undisturbed one leaves, byte for byte."""
    begun = shutil.copytree(tiny_run, tmp_path / "begun" / "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_carry_out", lambda *arguments: None)  # nothing but the plan is written
        unlearn(begun, ["finetune"], "client=2", purge=True, name="x")

    def content(run: Path) -> dict[str, bytes]:
        return {str(path.relative_to(run)): path.read_bytes() for path in run.rglob("*") if path.is_file()}

    whole = shutil.copytree(begun, tmp_path / "whole" / "tiny")
    assert cli("receipts", whole, "--finish").code == 0
    assert "no purge of it was interrupted" in cli("receipts", whole, "--finish").err
    assert not (whole / "purging.json").exists()
    for number in range(0, 200, 3):
        run = shutil.copytree(begun, tmp_path / str(number) / "tiny")
        if not _killed_at(monkeypatch, number, lambda run=run: deletion.finish(run, None, lambda line: None)):  # type: ignore[misc]
            break
        if number == 9:
            for command in (["show", run], ["unlearn", run, "--method=finetune", "--forget=client=1"]):
                told = cli(*command)
                assert (told.code, told.err.count("\n")) == (2, 1)
                assert f"a purge of it was interrupted, or is going on; fedsim receipts {run} --finish" in told.err
        assert cli("receipts", run, "--finish").code == 0
        assert content(run) == content(whole)
        assert len(verify(run)) == 1
    assert number > 10


def test_a_purge_destroys_nothing_outside_of_its_run(
    tiny_run: Path, tmp_path: Path, no_pictures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    with monkeypatch.context() as patch:
        patch.setattr(deletion, "_carry_out", lambda *arguments: None)
        unlearn(run, ["finetune"], "client=2", purge=True, name="x")
    file, other = run / "purging.json", tmp_path / "other"
    other.write_text("of somebody else")
    pending = deletion._Pending.model_validate_json(unseal(file.read_bytes()))
    gone = pending.receipt.destroyed[0].model_copy(update={"path": "../other"})
    receipt = pending.receipt.model_copy(update={"destroyed": [*pending.receipt.destroyed, gone]})
    file.write_bytes(seal(pending.model_copy(update={"receipt": receipt}).model_dump_json(indent=1)))
    with pytest.raises(FedsimError, match=r"names \.\./other, which is not in it; nothing was destroyed"):
        deletion.finish(run, None, lambda line: None)
    assert other.exists()
    assert (run / "model.safetensors").exists()


def test_receipts_are_chained_and_say_what_was_done(cli: Cli, purged: Path) -> None:
    one, two = read_receipts(purged)
    assert (one.request.specs, one.request.clients, one.method) == (["client=2"], [2], "finetune")
    assert one.model_sha256_after == two.model_sha256_before
    assert any("client-4" in gone.path for gone in one.destroyed)  # its model knew client 2
    assert not (purged / "unlearned" / "finetune-client-4").exists()
    page = (purged / "receipts" / "0001.html").read_text()
    assert all(text in page for text in ("client=2", one.model_sha256_after, "fedsim unlearn", "Destroyed"))
    assert cli("receipts", purged, "--verify").out.count("whole, not signed") == 2
    assert "client=1 by finetune" in cli("receipts", purged).out
    assert "asks for signed receipts" in cli("receipts", purged, "--verify", "--key", purged / "x").err


@pytest.mark.parametrize(
    ("tamper", "line"),
    [
        (lambda run: _edit(run / "receipts" / "0001.json", "client=2", "client=9"), "its hash is not the ledger's"),
        (lambda run: (run / "receipts" / "0002.json").unlink(), "cannot be read"),
        (lambda run: _edit(run / "deletions.json", "client=1", "client=0"), "is not what was written"),
        (lambda run: (run / "plots").mkdir(), "nothing"),
    ],
)
def test_what_was_changed_is_found(purged: Path, tamper: Callable[[Path], None], line: str) -> None:
    tamper(purged)
    if line == "nothing":
        assert len(verify(purged)) == 2
    else:
        with pytest.raises(FedsimError, match=line):
            verify(purged)


def _edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))


def test_signed_receipts(cli: Cli, tiny_run: Path, tmp_path: Path, no_pictures: None) -> None:
    pytest.importorskip("cryptography")
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    files = {}
    for name in ("ours", "theirs"):
        key = Ed25519PrivateKey.generate()
        files[name], public = tmp_path / f"{name}.pem", tmp_path / f"{name}.pub"
        files[name].write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
        public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    folder = shutil.copytree(tiny_run, tmp_path / "tiny")
    told = cli("unlearn", folder, "--method=finetune", "--forget=client=2", "--purge", "--sign", files["ours"])
    assert told.code == 0, told.err
    assert "whole, signed" in cli("receipts", folder, "--verify", "--key", tmp_path / "ours.pub").out
    assert "was made with another key" in cli("receipts", folder, "--verify", "--key", tmp_path / "theirs.pub").err
    signature = folder / "receipts" / "0001.sig"
    signature.write_text(signature.read_text().replace("A", "B"))
    assert "does not fit its receipt" in cli("receipts", folder, "--verify").err
    bad = cli("unlearn", folder, "--method=finetune", "--forget=client=1", "--purge", "--sign", tmp_path / "ours.pub")
    assert (bad.code, "is no private key in PEM" in bad.err) == (2, True)
