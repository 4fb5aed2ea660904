import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.training.batches import joined, plan_batches

sizes_of_clients = st.lists(st.integers(0, 23), min_size=1, max_size=6)


def plan(sizes, clients=None, epochs=2, batch_size=5, drop_single=False, augment="none", server_round=3, seed=0):
    starts = np.cumsum([0, *sizes])
    rows = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    return plan_batches(
        rows, clients or list(range(len(sizes))), (seed, server_round, 0),
        epochs=epochs, batch_size=batch_size, drop_single=drop_single, augment=augment, pad=1,
    )  # fmt: skip


@settings(deadline=None, max_examples=60)
@given(sizes_of_clients, st.integers(1, 3), st.integers(1, 8))
def test_every_epoch_shows_every_sample_once(sizes, epochs, batch_size):
    made = plan(sizes, epochs=epochs, batch_size=batch_size)
    starts = np.cumsum([0, *sizes])
    for lane, size in enumerate(sizes):
        seen = [made.index[s, lane, : made.counts[s, lane]] for s in range(len(made.counts))]
        per_epoch = -(-size // batch_size)
        assert made.steps[lane] == epochs * per_epoch
        for epoch in range(epochs):
            shown = np.concatenate(seen[epoch * per_epoch : (epoch + 1) * per_epoch] or [np.empty(0, int)])
            assert sorted(shown) == list(range(starts[lane], starts[lane] + size))


@settings(deadline=None, max_examples=30)
@given(sizes_of_clients, st.integers(1, 8))
def test_a_batch_of_one_is_dropped_only_on_request(sizes, batch_size):
    dropped = plan(sizes, batch_size=batch_size, drop_single=True)
    assert not (dropped.counts == 1).any()
    whole = plan(sizes, batch_size=batch_size)
    assert dropped.counts.sum() == whole.counts[whole.counts > 1].sum()


def test_a_client_sees_the_same_batches_whoever_is_in_its_chunk():
    alone = plan_batches(
        [np.arange(100, 107)], [4], (0, 3, 0), epochs=2, batch_size=5, drop_single=False, augment="crop_flip", pad=1
    )
    among = plan_batches(
        [np.arange(40), np.arange(100, 107)], [9, 4], (0, 3, 0),
        epochs=2, batch_size=5, drop_single=False, augment="crop_flip", pad=1,
    )  # fmt: skip
    for step, count in enumerate(alone.counts[:, 0]):
        assert among.counts[step, 1] == count
        assert np.array_equal(among.index[step, 1, :count], alone.index[step, 0, :count])
        assert np.array_equal(among.draws[step, 1, :count], alone.draws[step, 0, :count])


@pytest.mark.parametrize("change", [{"server_round": 4}, {"seed": 1}, {"clients": [7]}])
def test_another_round_seed_or_client_draws_another_order(change):
    assert not np.array_equal(plan([20]).index, plan([20], **change).index)


@settings(deadline=None, max_examples=60)
@given(sizes_of_clients, st.integers(0, 7), st.integers(1, 8))
def test_steps_take_the_next_samples_of_shuffled_passes(sizes, steps, batch_size):
    starts = np.cumsum([0, *sizes])
    rows = [np.arange(a, b) for a, b in itertools.pairwise(starts)]
    made = plan_batches(
        rows, list(range(len(sizes))), (0, 1, 0), epochs=9, batch_size=batch_size, drop_single=False, steps=steps
    )
    for lane, size in enumerate(sizes):
        assert made.steps[lane] == (steps if size else 0)
        counts = made.counts[:, lane]
        assert (counts == min(batch_size, size)).all()
        seen = np.concatenate([made.index[s, lane, :n] for s, n in enumerate(counts)] or [np.empty(0, int)])
        for one_pass in (seen[i : i + size] for i in range(0, len(seen) - size + 1, size or 1)):
            assert sorted(one_pass) == rows[lane].tolist()
        times = np.bincount(seen - starts[lane], minlength=size)
        assert not size or times.max() - times.min() <= 1


def test_joined_batches_hold_both_streams_samples_one_after_the_other():
    options = {"epochs": 1, "batch_size": 4, "drop_single": False, "pad": 1}
    ours = plan_batches([np.arange(6), np.arange(10, 12)], [0, 1], (0, 1, 0), steps=3, augment="crop_flip", **options)
    theirs = plan_batches([np.arange(20, 29), np.arange(0)], [0, 1], (0, 1, 0), steps=2, purpose="more", **options)
    both = joined([ours, theirs], drop_single=False, pad=1)
    assert both.counts.tolist() == [[8, 2], [8, 2], [4, 2]]
    for step, lane in np.ndindex(3, 2):
        parts = [plan.index[step, lane, : plan.counts[step, lane]] for plan in (ours, theirs) if step < len(plan.index)]
        there = np.concatenate(parts)
        assert both.index[step, lane, : len(there)].tolist() == there.tolist()
        assert (both.index[step, lane, len(there) :] == there[0]).all()
        first = ours.counts[step, lane]
        assert np.array_equal(both.draws[step, lane, :first], ours.draws[step, lane, :first])
        assert (both.draws[step, lane, first:] == (1, 1, 0)).all()
    lonely = plan_batches([np.arange(1)], [0], (0, 1, 0), steps=2, **options)
    none = plan_batches([np.arange(0)], [0], (0, 1, 0), steps=2, purpose="more", **options)
    assert joined([lonely, none], drop_single=True, pad=1).steps.tolist() == [0]


def test_fresh_batches_are_drawn_each_for_itself():
    """No sample twice within a batch, and none kept for the next: with two of three, pairs repeat and miss."""
    made = plan_batches(
        [np.arange(3), np.arange(3, 5)],
        [0, 1],
        (0, 1, 0),
        epochs=1,
        batch_size=2,
        drop_single=False,
        steps=30,
        fresh=True,
    )
    assert made.counts.tolist() == [[2, 2]] * 30
    drawn = [frozenset(pair) for pair in made.index[:, 0].tolist()]
    assert all(len(pair) == 2 for pair in drawn)
    assert set(drawn) == {frozenset(pair) for pair in ((0, 1), (0, 2), (1, 2))}
    passes = plan_batches([np.arange(3)], [0], (0, 1, 0), epochs=1, batch_size=2, drop_single=False, steps=30)
    cut = passes.index[:, 0].reshape(-1, 3)
    assert all(sorted(three) == [0, 1, 2] for three in cut.tolist())  # what these are not
    assert any(sorted(three) != [0, 1, 2] for three in made.index[:, 0].reshape(-1, 3).tolist())
