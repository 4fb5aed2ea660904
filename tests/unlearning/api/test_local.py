"""Clients work on their own samples: cohorts, draws, costs, and the releases that the ledger gets."""

import numpy as np
import pytest
import torch

from fedsim.flower.records import Tensors
from unlearning.api.local import Local, LocalWork
from unlearning.pipeline.source import Source

SENT = {"w": torch.ones(10)}


@pytest.fixture
def work(source: Source) -> LocalWork:
    """Client 0 has lost all samples, and client 2 one of its samples."""
    gone = np.append(source.data.partition[0], source.data.partition[2][0])
    return LocalWork(source.config, source.data, source.data.without(gone), source.device)


def test_clients_without_samples_sit_out_and_each_cohort_has_a_holder(work: LocalWork) -> None:
    assert (work.clients, work.holders) == ([1, 2, 3, 4, 5], [2])
    assert work.cohort(1, None) == work.cohort(1, 9) == work.clients
    drawn = [work.cohort(number, 2) for number in range(1, 9)]
    assert all(2 in cohort and len(set(cohort)) == 2 and sorted(cohort) == cohort for cohort in drawn)
    assert len({*map(tuple, drawn)}) > 1
    assert work.cohort(3, 2) == drawn[2]


def test_each_works_on_its_own_samples_with_its_own_draws(work: LocalWork, source: Source) -> None:
    def count(sent: Tensors, local: Local) -> Tensors:
        counts = torch.tensor([len(local.forget), len(local.retain)])
        return {"counts": counts, "draw": torch.rand(1), "own": torch.tensor(local.rng("x").random())}

    state = torch.get_rng_state()
    first, again = (list(work.ask("counts", 1, [1, 2], count, SENT, torch.float32)) for _ in range(2))
    assert torch.equal(torch.get_rng_state(), state)
    sizes = source.data.partition.sizes.tolist()
    assert [client for client, _ in first] == [1, 2]
    assert [reply["counts"].tolist() for _, reply in first] == [[0, sizes[1]], [1, sizes[2] - 1]]
    for name in ("draw", "own"):
        assert [reply[name] for _, reply in first] == [reply[name] for _, reply in again]
        assert first[0][1][name] != first[1][1][name]


def test_traffic_is_counted_and_what_was_sent_is_in_the_ledger(work: LocalWork) -> None:
    def echo(sent: Tensors, local: Local) -> Tensors:
        return sent

    for number in (1, 2):
        list(work.ask("echoes", number, [1, 2], echo, SENT, torch.float32))
    list(work.ask("others", 1, [3], echo, SENT, torch.float32))
    work.note("seconds", 1.5)
    assert work.costs() == {"rounds": 3, "clients_woken": 5, "traffic_mb": 5 * 2 * 40 / 1e6, "seconds": 1.5}
    echoes, others = work.ledgers()
    assert [release.what for release in echoes.releases] == ["echoes"]
    assert (echoes.took_part, others.took_part) == ([0, 2, 2, 0, 0, 0], [0, 0, 0, 1, 0, 0])
