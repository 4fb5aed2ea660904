import numpy as np
import pytest

from fedsim.config.resolve import resolve
from fedsim.data import federate
from fedsim.data.partition import Partition
from fedsim.data.stages import Stages
from fedsim.errors import FedsimError


def staged(clients=4, seed=3, **data):
    config = resolve({"rounds": 20, "data": {"stages": {"count": 3}, **data}, "seed": seed})
    return federate(config.data, clients, seed)


def test_blocks_are_disjoint_cover_all_classes_and_differ_by_at_most_one():
    blocks = staged().stages.blocks
    assert sorted(np.concatenate(blocks)) == list(range(10))
    assert [len(block) for block in blocks] == [4, 3, 3]
    natural = staged(stages={"count": 2, "order": "natural"}).stages.blocks
    assert [block.tolist() for block in natural] == [[0, 1, 2, 3, 4], [5, 6, 7, 8, 9]]
    assert not np.array_equal(blocks[0], staged(seed=4).stages.blocks[0])


def test_a_round_belongs_to_its_stage_and_the_last_stage_goes_on():
    stages = staged().stages
    assert [stages.of(r) for r in (1, 6, 7, 12, 13, 20, 99)] == [0, 0, 1, 1, 2, 2, 2]
    assert [r for r in range(1, 21) if stages.ends(r)] == [6, 12]
    assert stages.seen(1).sum() == 4
    assert stages.seen(7).sum() == 7
    assert stages.seen(20).all()


def test_clients_hold_the_samples_of_their_stage_only():
    data = staged()
    y = data.dataset.y_train
    for server_round in (1, 7, 13):
        part, stage = data.at(server_round), data.stages.of(server_round)
        assert set(y[part.indices]) == set(data.stages.blocks[stage].tolist())
        for client in range(4):
            expected = [row for row in data.partition[client] if y[row] in data.stages.blocks[stage]]
            assert part[client].tolist() == expected
    together = np.concatenate([data.at(r).indices for r in (1, 7, 13)])
    assert sorted(together) == sorted(data.partition.indices) == list(range(len(y)))


def test_equal_shares_within_every_stage_differ_by_at_most_a_sample():
    data = staged(partition="iid")
    for server_round in (1, 7, 13):
        assert np.ptp(data.at(server_round).sizes) <= 1


def test_stages_are_cut_independently_of_each_other():
    """A schedule with the same first block but other later ones gives the first stage the same shares."""
    config = {"order": "natural"}
    two, five = (staged(stages={**config, "count": count}) for count in (2, 5))
    assert two.stages.blocks[0][:2].tolist() == five.stages.blocks[0].tolist()
    # Equal-sized stages do not repeat each other's draws.
    shares = [five.at(r).label_counts(five.dataset.y_train, 10).sum(1).tolist() for r in (1, 5)]
    assert shares[0] != shares[1]


def test_what_is_kept_of_the_past_is_a_sample_that_only_shrinks():
    data = staged(stages={"count": 3, "keep": 20})
    y, blocks = data.dataset.y_train, data.stages.blocks
    kept = {}
    for stage, server_round in enumerate((1, 7, 13)):
        part = data.at(server_round)
        for client in range(4):
            rows = part[client]
            assert (np.diff(rows) > 0).all()
            old = rows[~np.isin(y[rows], blocks[stage])]
            assert set(data.partition[client]) >= set(rows.tolist())
            held = sum(np.isin(y[data.partition[client]], blocks[s]).sum() for s in range(stage))
            assert len(old) == min(20, held)
            kept[stage, client] = set(old.tolist())
    for client in range(4):
        earlier = np.isin(y[sorted(kept[2, client])], blocks[0])
        assert {row for row, is_first in zip(sorted(kept[2, client]), earlier, strict=True) if is_first} <= kept[
            1, client
        ]


def test_without_rows_every_stage_loses_them():
    data = staged()
    gone = data.at(7)[2]
    left = data.without(gone)
    assert left.at(7)[2].size == 0
    np.testing.assert_array_equal(left.at(1).indices, data.at(1).indices)
    assert left.content_hash != data.content_hash


def test_the_hash_tells_schedules_apart():
    hashes = [staged(stages=s).content_hash for s in ({"count": 2}, {"count": 2, "rounds": 5}, {"count": 2, "keep": 3})]
    assert len(set(hashes)) == 3


def test_one_stage_is_no_stages():
    plain, one = (federate(resolve({"rounds": 20, "data.stages": s}).data, 4, 3) for s in (None, {"count": 1}))
    assert one.stages is None
    assert one.content_hash == plain.content_hash
    assert one.seen(1) is None
    assert one.at(9) is one.partition


def test_unlabelled_samples_arrive_with_their_classes():
    data = staged(labelled_fraction=0.5)
    y = data.dataset.y_train
    assert set(y[data.unlabelled_at(1).indices]) == set(data.stages.blocks[0].tolist())


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"rounds": 2, "data.stages": {"count": 3}}, "data: 3 stages need rounds=3 or more, got 2"),
        ({"rounds": 20, "data.stages": {"count": 3, "rounds": 10}}, "data: 3 stages need rounds=21 or more, got 20"),
        ({"rounds": 20, "data.stages": {"count": 11}}, "data.stages.count: must be from 1 to 10"),
        ({"data": {"stages": {"count": 2}, "partition": "sites"}}, "data.partition: sites have one class mix"),
        (
            {"data": {"stages": {"count": 2}, "name": "diabetes", "partition": "iid"}},
            "data.stages: classes arrive in stages",
        ),
    ],
)
def test_impossible_schedules_are_refused_in_one_line(config, told):
    with pytest.raises(FedsimError, match=told) as error:
        federate(resolve(config).data, 4, 0)
    assert "\n" not in str(error.value)


def test_more_rounds_of_a_resolved_configuration_keep_its_stages():
    config = resolve({"rounds": 20, "data.stages": {"count": 2}})
    assert config.data.stages.rounds == 10
    assert resolve(config.model_dump(), {"rounds": 30}).data.stages.rounds == 10


def test_ranks_of_what_is_kept_are_those_of_the_lots():
    lots = np.array([0.9, 0.1, 0.5, 0.2, 0.3, 0.8])
    stages = Stages((np.array([0]), np.array([1])), 1, 1, lots)
    whole = Partition.from_lists([[0, 1, 4], [2, 3, 5]])
    cut = stages.cut(whole, np.array([0, 0, 0, 0, 1, 1]), 1)
    assert [rows.tolist() for rows in cut] == [[1, 4], [3, 5]]
