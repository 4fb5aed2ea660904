import pytest

from fedsim.errors import FedsimError
from fedsim.privacy.ledger import Ledger, Release, Spent
from tests.declarations import undeclared

UPDATE = Release(what="updates", covers=("model",))
LOSS = Release(what="loss", covers=("metrics/loss", "metrics/loss_*"))
STEPS = Release(
    what="gradients", covers=("model",), mechanism="gaussian", unit="example", noise=1.5, delta=1e-5,
    sampling_rate=(0.5, 0.25, 1.0), times=(2, 4, 1),
)  # fmt: skip
LABELS = Release(
    what="bag means", covers=("model", "metrics/*"), mechanism="laplace", unit="response", adjacency="replaced",
    noise=2.0, when="once",
)  # fmt: skip
MEAN = Release(
    what="mean", covers=("model",), mechanism="gaussian", unit="client", against="readers", noise=3.0, delta=1e-3,
    sampling_rate=0.1, when="every round",
)  # fmt: skip


def ledger(*releases: Release) -> Ledger:
    return Ledger(releases=releases, took_part=[0, 0, 0])


def test_releases_are_counted_by_when_they_happen():
    book = ledger(UPDATE, STEPS, LABELS, MEAN)
    for cohort in ([0, 1], [0], []):
        book.add_round(cohort)
    assert book.took_part == [2, 1, 0]

    def counts(release: Release) -> list[tuple[float, int] | None]:
        all_spent = [book.spent(release, client) for client in range(3)]
        return [(spent.sampling_rate, spent.count) if spent else None for spent in all_spent]

    assert counts(UPDATE) == [None] * 3
    assert counts(STEPS) == [(0.5, 4), (0.25, 4), None]
    assert counts(LABELS) == [(1.0, 1), (1.0, 1), None]
    assert counts(MEAN) == [(0.1, 3)] * 3  # the client that was never drawn might have been
    assert book.spent(LABELS, 0) == Spent(mechanism="laplace", noise=2.0, sampling_rate=1.0, count=1)


def test_what_is_not_covered_depends_on_the_unit():
    book = ledger(UPDATE, LOSS, STEPS, LABELS)
    assert book.uncovered("example") == [LOSS]
    assert book.uncovered("response") == []
    assert book.uncovered("client") == [UPDATE, LOSS]


def test_a_name_is_covered_by_its_pattern_only():
    assert undeclared(["model", "metrics/loss", "metrics/loss_etf"], [UPDATE, LOSS]) == []
    assert undeclared(["metrics/losses", "arrays/model"], [UPDATE, LOSS]) == ["arrays/model", "metrics/losses"]


def test_the_file_comes_back_as_it_was(tmp_path):
    book = ledger(UPDATE, STEPS, LABELS, MEAN)
    book.add_round([2])
    book.save(tmp_path)
    assert Ledger.read(tmp_path) == book
    with pytest.raises(FedsimError, match=r"no_such.privacy\.json: cannot be read"):
        Ledger.read(tmp_path / "no_such")
    (tmp_path / "privacy.json").write_text('{"releases": [{"what": 3}]}')
    with pytest.raises(FedsimError, match=r"privacy\.json: malformed \(releases\.0"):
        Ledger.read(tmp_path)
