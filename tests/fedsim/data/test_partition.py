import time
import warnings
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data import DataConfig, Partition, long_tail_counts, make_partition, partition_names
from fedsim.data.config import Pathological
from fedsim.errors import FedsimError
from fedsim.randomness import generator


def options(**values):
    return DataConfig(partition=values).partition


def split(labels, clients, run_seed=0, identity=None, **values):
    return make_partition(options(**values), np.asarray(labels), clients, run_seed, identity)


def assert_disjoint(partition, num_rows, covers_all=True):
    assert partition.offsets[0] == 0
    assert partition.offsets[-1] == len(partition.indices)
    assert (np.diff(partition.offsets) >= 0).all()
    owned = np.bincount(partition.indices, minlength=num_rows)
    assert owned.size == num_rows
    assert owned.max() == 1
    if covers_all:
        assert owned.min() == 1


GENERAL = [
    {"name": "iid"},
    {"name": "dirichlet", "alpha": 0.05},
    {"name": "dirichlet", "alpha": 10.0},
    {"name": "dirichlet", "alpha": 1.0, "balance": True},
    {"name": "multinomial", "alpha": 0.3},
    {"name": "multinomial", "seed": 3},
]


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(GENERAL), st.lists(st.integers(0, 6), min_size=1, max_size=80), st.data())
def test_general_partitioners_give_every_row_one_owner(values, labels, data):
    clients = data.draw(st.integers(1, len(labels)))
    seed = data.draw(st.integers(0, 2**32))
    partition = split(labels, clients, seed, **values)
    assert len(partition) == clients
    assert_disjoint(partition, len(labels))
    again = split(labels, clients, seed, **values)
    np.testing.assert_array_equal(partition.indices, again.indices)
    np.testing.assert_array_equal(partition.offsets, again.offsets)
    if values["name"] == "iid":
        assert np.ptp(partition.sizes) <= 1


@settings(max_examples=30, deadline=None)
@given(st.integers(2, 8), st.integers(1, 4), st.integers(1, 20), st.integers(0, 100))
def test_pathological_clients_hold_few_classes(num_classes, held, clients, seed):
    held = min(held, num_classes)
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(num_classes), 25))
    partition = split(y, clients, seed, name="pathological", classes_per_client=held)
    counts = partition.label_counts(y, num_classes)
    np.testing.assert_array_equal((counts > 0).sum(axis=1), held)
    assert_disjoint(partition, len(y), covers_all=clients >= num_classes)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 4), st.integers(1, 20), st.integers(0, 100))
def test_shards_are_equal_and_span_few_classes(shards, clients, seed):
    y = np.random.default_rng(seed).permutation(np.repeat(np.arange(5), 50))
    partition = split(y, clients, seed, name="shards", shards_per_client=shards)
    shard_size = len(y) // (clients * shards)
    assert (partition.sizes == shards * shard_size).all()
    # A run of s samples of the sorted labels touches at most 1 + ceil((s - 1) / 50) of the classes of 50.
    touched = (partition.label_counts(y, 5) > 0).sum(axis=1)
    assert (touched <= shards * (1 + -(-(shard_size - 1) // 50))).all()
    assert_disjoint(partition, len(y), covers_all=len(y) % (clients * shards) == 0)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_natural_clients_are_the_identities_in_order(identity):
    people = sorted(set(identity))
    partition = split([0] * len(identity), len(people), identity=np.array(identity), name="natural")
    for client, person in enumerate(people):
        assert partition[client].tolist() == [i for i, other in enumerate(identity) if other == person]


def test_natural_names_the_right_number_of_clients():
    with pytest.raises(FedsimError, match="here 3, got 2"):
        split([0, 1, 0, 1], 2, identity=np.array([4, 4, 9, 7]), name="natural")
    with pytest.raises(FedsimError, match="lacks"):
        split([0, 1], 2, name="natural")


SKEWED = [*GENERAL[:5], {"name": "pathological"}, {"name": "shards"}, {"name": "sites", "alpha": 0.3}]


@pytest.mark.parametrize("values", SKEWED, ids=str)
def test_another_seed_is_another_partition(values):
    y = np.arange(400) % 10
    one, other = (split(y, 10, seed, **values) for seed in (1, 2))
    assert not np.array_equal(one.owners[np.argsort(one.indices)], other.owners[np.argsort(other.indices)])
    if "alpha" in values:  # not only who, but also how many
        assert not np.array_equal(one.sizes, other.sizes)


def test_identities_do_not_sway_other_partitioners():
    y, people = np.arange(100) % 10, np.arange(100) // 50
    one, other = (split(y, 5, identity=identity, name="dirichlet") for identity in (None, people))
    np.testing.assert_array_equal(one.indices, other.indices)


def test_small_alpha_skews_and_large_alpha_levels():
    y = np.arange(5000) % 10
    shares = {}
    for name in ("dirichlet", "multinomial"):
        for alpha in (0.05, 100.0):
            counts = split(y, 10, name=name, alpha=alpha).label_counts(y, 10)
            shares[name, alpha] = counts.max(axis=0).mean() / 500  # the largest holder's share of a class
        # Dir(100 * 1_10) shares are 0.1 +- 0.01, so the largest of ten stays under 0.2; Dir(0.05)'s is near 1.
        assert shares[name, 100.0] < 0.2
        assert shares[name, 0.05] > 0.6


def test_balance_evens_the_sizes():
    y = np.arange(5000) % 10
    free, even = (split(y, 5, name="dirichlet", alpha=0.1, balance=balance).sizes for balance in (False, True))
    # A client gets at most one class after it holds its 1,000.
    assert even.max() <= 1500 < free.max()


def test_balance_that_leaves_nobody_is_refused():
    def split_many():  # whole classes go to one of two clients: sooner or later to one that is full
        for seed in range(50):
            split(np.arange(100) % 5, 2, seed, name="dirichlet", alpha=0.001, balance=True)

    with pytest.raises(FedsimError, match="too small for 2 clients"):
        split_many()


@st.composite
def sites(draw):
    """Labels of up to four classes, and priors and sizes of up to five sites that ask for no class that is missing."""
    labels = draw(st.lists(st.integers(0, 3), min_size=5, max_size=120))
    clients = draw(st.integers(1, 5))
    held = np.bincount(labels)
    numbers = st.lists(st.integers(0, 5), min_size=len(held), max_size=len(held))
    priors = [(np.array(draw(numbers)) * (held > 0) + (held == held.max())).tolist() for _ in range(clients)]
    sizes = draw(st.none() | st.lists(st.integers(1, 9), min_size=clients, max_size=clients))
    return np.array(labels), clients, priors, sizes


@settings(max_examples=100, deadline=None)
@given(sites(), st.integers(0, 2**32))
def test_sites_have_the_class_mix_and_the_size_that_was_asked_for(drawn, seed):
    labels, clients, priors, sizes = drawn
    partition = split(labels, clients, seed, name="sites", priors=priors, sizes=sizes)
    assert len(partition) == clients
    assert_disjoint(partition, len(labels), covers_all=False)
    counts, held = partition.label_counts(labels, len(priors[0])), np.bincount(labels)
    share = np.ones(clients) if sizes is None else np.array(sizes)
    wanted = share[:, None] * np.array(priors) / np.sum(priors, axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        largest = np.nanmin(held / wanted.sum(axis=0))  # of a class that nobody wants 0 / 0 or inf
    assert np.abs(counts - largest * wanted).max() < 1
    assert (counts.sum(axis=0) == held).any()  # one class is used up: no larger sites have these mixes
    again = split(labels, clients, seed, name="sites", priors=priors, sizes=sizes)
    np.testing.assert_array_equal(partition.indices, again.indices)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=120), st.data())
def test_drawn_sites_are_disjoint(labels, data):
    clients, alpha = data.draw(st.integers(1, len(labels))), data.draw(st.sampled_from([0.001, 0.1, 1.0, 1e6]))
    partition = split(labels, clients, data.draw(st.integers(0, 2**32)), name="sites", alpha=alpha)
    assert_disjoint(partition, len(labels), covers_all=False)


def test_drawn_priors_lie_about_that_of_the_data():
    y = np.repeat([0, 1], [1000, 3000])
    for alpha, low, high in ((1e5, 0, 0.01), (0.3, 0.15, 0.5)):
        counts = split(y, 50, name="sites", alpha=alpha).label_counts(y, 2)
        shares = counts[:, 1] / counts.sum(axis=1)
        assert shares.mean() == pytest.approx(0.75, abs=0.15)
        assert low <= shares.std() <= high


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"priors": [[1, 1]]}, r"priors: needs 3 lists \(clients\) of 2 numbers \(classes\), got 1 of 2"),
        ({"priors": [[1], [1], [1]]}, "got 3 of 1"),
        ({"sizes": [1, 2]}, "sizes: needs one number per client, 3, got 2"),
    ],
)
def test_sites_that_do_not_fit_the_data_are_refused(values, message):
    with pytest.raises(FedsimError, match=message):
        split(np.arange(60) % 2, 3, name="sites", **values)


def test_min_samples_is_met_or_refused():
    y = np.arange(1000) % 10
    assert split(y, 20, name="dirichlet", min_samples=20).sizes.min() >= 20
    with pytest.raises(FedsimError, match="lower min_samples"):
        split(y, 20, name="dirichlet", min_samples=51)


def test_probabilities_that_underflow_are_refused():
    # Legacy NumPy's Gamma(0.001) draws underflow to 0 about every other time: of 50 classes some get 0 / 0.
    with pytest.raises(FedsimError, match=r"alpha: 0\.001 is too small for 2 clients"):
        split(np.arange(100) % 50, 2, name="multinomial", alpha=0.001)


def test_the_default_works_for_100_clients_on_long_tailed_digits():
    y = np.repeat(np.arange(10), long_tail_counts(10, 125, 0.2))
    for seed in range(5):
        assert_disjoint(make_partition(DataConfig().partition, y, 100, seed), len(y))


@pytest.mark.parametrize("name", partition_names())
@pytest.mark.parametrize("clients", [0, 11])
def test_impossible_client_counts_are_refused(name, clients):
    with pytest.raises(FedsimError, match=f"from 1 to 10.*got {clients}"):
        split(np.arange(10) % 2, clients, identity=np.arange(10), name=name)


@pytest.mark.parametrize(
    ("values", "clients"),
    [
        ({"name": "pathological", "classes_per_client": 3}, 2),  # two classes only
        ({"name": "pathological", "classes_per_client": 2}, 10),  # each class is wanted by ten, and has five
        ({"name": "shards", "shards_per_client": 6}, 2),  # twelve shards of ten samples
    ],
)
def test_what_flwr_refuses_is_one_line(values, clients):
    with pytest.raises(FedsimError, match=f"data.partition: {values['name']} cannot split 10") as caught:
        split(np.arange(10) % 2, clients, **values)
    assert "\n" not in str(caught.value)


# From the logs of FedLoGe's authors: (classes, n_max, IF, clients) and the first client sizes.
AUTHORS = {
    (10, 5000, 0.02, 40): [226, 200, 143, 400, 329, 90, 221, 637, 842, 250],
    (10, 5000, 0.01, 40): [215, 141, 207, 171, 243, 132, 178, 751, 618, 173],
    (100, 500, 0.02, 20): [557, 682, 644, 784, 649, 592, 581, 632, 626, 509],
    (100, 500, 0.01, 20): [573, 766, 469, 733, 726, 766, 466, 320, 676, 410],
    (100, 500, 0.01, 40): [264, 285, 233, 378, 283, 185, 318, 263, 231, 256],
}


@pytest.mark.parametrize("setting", AUTHORS)
def test_multinomial_with_a_legacy_seed_is_the_authors_partition(setting):
    classes, n_max, factor, clients = setting
    y = np.repeat(np.arange(classes), long_tail_counts(classes, n_max, factor))
    sizes = split(y, clients, name="multinomial", alpha=0.5, seed=3407).sizes
    assert sizes[:10].tolist() == AUTHORS[setting]
    if setting == (10, 5000, 0.02, 40):
        assert (sizes.min(), sizes.max()) == (66, 995)


@pytest.mark.parametrize(("clients", "alpha", "least"), [(10, 0.5, 0), (50, 0.1, 0), (5, 0.3, 60), (4, 100.0, 0)])
def test_dirichlet_is_that_of_flwr(clients, alpha, least):
    """Equal to the row; with (5, 0.3, 60) only after some redraws."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from flwr_datasets.partitioner import DirichletPartitioner

        y = generator(0, "labels").integers(0, 7, 600)
        rng = generator(0, "partition")
        order = rng.permutation(len(y))
        theirs = DirichletPartitioner(clients, "y", alpha, least, shuffle=False, seed=int(rng.integers(2**63 - 1)))
        theirs.dataset = Dataset.from_dict({"y": y[order], "row": order})
        ours = split(y, clients, name="dirichlet", alpha=alpha, min_samples=least)
        for client in range(clients):
            assert sorted(theirs.load_partition(client)["row"]) == ours[client].tolist()


@pytest.mark.parametrize("name", ["pathological", "shards"])
def test_the_lists_are_those_flwr_hands_out(name, monkeypatch):
    """Private lists against the public, slow `load_partition`."""
    import fedsim.data.partition as module

    made = []
    build = module._flwr_partitioner
    monkeypatch.setattr(module, "_flwr_partitioner", lambda *args: made.append(build(*args)) or made[0])
    y = np.arange(200) % 5
    partition = split(y, 10, name=name)
    for client in range(10):
        assert sorted(made[0].load_partition(client)["row"]) == partition[client].tolist()


def test_iid_sizes_are_those_of_flwr():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from datasets import Dataset
        from flwr_datasets.partitioner import IidPartitioner
    theirs = IidPartitioner(7)
    theirs.dataset = Dataset.from_dict({"row": np.arange(40)})
    sizes = sorted(len(theirs.load_partition(k)) for k in range(7))
    assert sorted(split([0] * 40, 7, name="iid").sizes) == sizes


def test_100_000_iid_clients_take_seconds():
    y = np.zeros(1_000_000, dtype=np.int64)
    start = time.perf_counter()
    partition = split(y, 100_000, name="iid")
    assert time.perf_counter() - start < 5
    assert (partition.sizes == 10).all()
    assert_disjoint(partition, len(y))


def test_lists_and_label_counts():
    partition = Partition.from_lists([[3, 1], [], [0]])
    assert [rows.tolist() for rows in partition] == [[3, 1], [], [0]]
    assert partition.sizes.tolist() == [2, 0, 1]
    assert partition.label_counts(np.array([0, 2, 1, 2]), 3).tolist() == [[0, 0, 2], [0, 0, 0], [1, 0, 0]]
    assert all(a.base is partition.indices for a, _ in pairwise([*partition]))
    assert len(Partition.from_lists([])) == 0
    with pytest.raises(IndexError):
        partition[3]


@pytest.mark.parametrize(("clients", "per_client", "classes"), [(100, 2, 10), (100, 3, 10), (20, 10, 10), (30, 7, 21)])
def test_equal_classes(clients, per_client, classes):
    """Each client holds so many classes, each class equally many clients, all in equal shares."""
    labels = np.repeat(np.arange(classes), 61)
    for seed in range(3):
        cut = make_partition(Pathological(classes_per_client=per_client, equal=True), labels, clients, seed)
        counts = cut.label_counts(labels, classes)
        holders = clients * per_client // classes
        assert set((counts > 0).sum(1)) == {per_client}
        assert set((counts > 0).sum(0)) == {holders}
        assert set(counts[counts > 0]) == {61 // holders}
        assert len(np.unique(cut.indices)) == len(cut.indices)


@pytest.mark.parametrize(
    ("clients", "per_client", "line"),
    [
        (7, 2, "cannot hold 10 classes equally often"),
        (5, 11, "cannot hold"),
        (100, 2, "samples of class 0 for 20 clients"),
    ],
)
def test_equal_classes_that_do_not_come_out(clients, per_client, line):
    cut = Pathological(classes_per_client=per_client, equal=True)
    with pytest.raises(FedsimError, match=line):
        make_partition(cut, np.repeat(np.arange(10), 19), clients, 0)
