"""A purge destroys what tells of a contribution, is ended where it was interrupted, and stays inside its run."""

import itertools
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.runs.folder import RunFolder
from fedsim.runs.history import KeptRound, norm, round_folders
from fedsim.sealed import seal, unseal
from tests.tiny_runs import Cli
from tests.unlearning.pipeline.small_runs import bits, train
from unlearning.pipeline import deletion, deletions, purge
from unlearning.pipeline.deletions import verify
from unlearning.pipeline.oracle import retrained
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


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
    folder = train(tmp_path, strategy=strategy, **{"history.keep": "updates"})
    client = next(iter(KeptRound(round_folders(folder)[0][1]).clients))
    truth = sent_by(folder, client)
    starts = {number: KeptRound(path).model()[0] for number, path in round_folders(folder)}
    weights = {number: KeptRound(path).clients[client].weight for number, path in round_folders(folder)
               if client in KeptRound(path).clients}  # fmt: skip
    if keep == "norms":  # the same run, bit for bit, that has kept less
        folder = train(tmp_path / "norms", strategy=strategy, **{"history.keep": "norms"})
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
    with pytest.raises(FedsimError, match=r"names \.\./other, which is outside of it; nothing was destroyed"):
        deletion.finish(run, None, lambda line: None)
    assert other.exists()
    assert (run / "model.safetensors").exists()
