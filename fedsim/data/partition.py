"""Partitions of samples over clients, by name; most follow flwr-datasets. A partition is one index array."""

import contextlib
import io
import itertools
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from fedsim.data.config import Dirichlet, Iid, Multinomial, Natural, PartitionConfig, Pathological, Shards, Sites
from fedsim.data.partition_config import Exponential, Linear, OwnPartition, Quantity, Square
from fedsim.data.size_partition import owners_by_function, owners_by_size
from fedsim.errors import FedsimError
from fedsim.randomness import generator

IntArray = npt.NDArray[np.int64]

_REMEDIES = {
    "pathological": "lower classes_per_client or the number of clients",
    "shards": "every shard needs a sample: lower shards_per_client or the number of clients",
}


@dataclass(frozen=True, eq=False)
class Partition:
    """Index lists of K clients in one array: client k holds `indices[offsets[k]:offsets[k + 1]]`.

    Two flat arrays are faster than K lists: pickle and Ray's object store handle 100,000 clients as two buffers.
    """

    indices: IntArray
    """(n,) rows of the data set."""
    offsets: IntArray
    """(K + 1,) ascending from 0 to n."""

    @classmethod
    def from_lists(cls, lists: Sequence[npt.ArrayLike]) -> Self:
        """Return the partition in which client k holds `lists[k]`."""
        arrays = [np.asarray(rows, dtype=np.int64) for rows in lists]
        offsets = np.cumsum([0, *map(len, arrays)], dtype=np.int64)
        return cls(np.concatenate(arrays) if arrays else np.empty(0, np.int64), offsets)

    @classmethod
    def from_owners(cls, owners: IntArray, clients: int) -> Self:
        """Return the partition in which row i belongs to client `owners[i]`, or to none (-1); rows ascend."""
        unowned = int(np.count_nonzero(owners < 0))
        order = np.argsort(owners, kind="stable")[unowned:]
        sizes = np.bincount(owners[order], minlength=clients)
        return cls(order, np.concatenate([[0], np.cumsum(sizes)]))

    def only(self, kept: npt.NDArray[np.bool_]) -> Self:
        """Return the partition with only the entries where `kept` (n,) is True."""
        sizes = np.bincount(self.owners[kept], minlength=len(self))
        return type(self)(self.indices[kept], np.concatenate([[0], np.cumsum(sizes)]))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, client: int) -> IntArray:
        """Return the rows of one client, a view. The IndexError ends an iteration."""
        if not 0 <= client < len(self):
            raise IndexError(f"client {client} of {len(self)}")
        return self.indices[self.offsets[client] : self.offsets[client + 1]]

    @property
    def sizes(self) -> IntArray:
        """Samples per client, (K,)."""
        return np.diff(self.offsets)

    @property
    def owners(self) -> IntArray:
        """The client of every entry of `indices`, (n,)."""
        return np.repeat(np.arange(len(self)), self.sizes)

    def label_counts(self, y: IntArray, num_classes: int) -> IntArray:
        """Return the number of samples per client and class, (K, C); `y` (n,) are the labels of the data set."""
        cells = self.owners * num_classes + y[self.indices]
        return np.bincount(cells, minlength=len(self) * num_classes).reshape(len(self), num_classes)


def make_partition(
    config: PartitionConfig, labels: IntArray, clients: int, seed: int, identity: IntArray | None = None,
    address: tuple[int, ...] = (),
) -> Partition:  # fmt: skip
    """Split the rows of `labels` (n,) over `clients`; the natural partition needs the rows' `identity` (n,).

    `address` distinguishes several partitions in a run, so that their draws are independent.

    No row has two owners. Every row has one, with three exceptions: rows that do not fill a shard, rows that fit no
    site's class frequencies, and classes that no client holds (pathological, with fewer clients than classes). Rows
    ascend within a client.

    Raises
    ------
    FedsimError
        If there are more clients than samples, or the partitioner cannot meet its conditions.
        If there are more clients than samples, or the partitioner cannot meet its conditions.
    """
    if not 1 <= clients <= len(labels):
        raise FedsimError(f"clients: must be from 1 to {len(labels)}, the number of training samples, got {clients}")
    rng = generator(seed, "partition", *address)
    match config:
        case Iid():
            # flwr's IidPartitioner makes this partition without the permutation, but it builds one Hugging Face dataset
            # per client: 0.7 ms each, more than a minute for 100,000 clients.
            owners = np.empty(len(labels), dtype=np.int64)
            shares = np.arange(len(labels)) * clients // len(labels)
            owners[rng.permutation(len(labels))] = shares
        case Quantity() | Linear() | Square() | Exponential():
            owners = owners_by_size(config, len(labels), clients, rng)
        case OwnPartition():
            owners = owners_by_function(config, labels, clients, rng, identity)
        case Multinomial():
            owners = _multinomial(config, labels, clients, rng)
        case Dirichlet():
            owners = _dirichlet(config, labels, clients, rng)
        case Sites():
            owners = _sites(config, labels, clients, rng)
        case Pathological(equal=True):
            owners = _equal_classes(config.classes_per_client, labels, clients, rng)
        case Natural():
            people, codes = _people(config, identity, clients)
            # Client k is the k-th value of a column; identities keep the order of flwr.
            owners = codes if config.by != "identity" else _through_flwr(config, people, clients, rng)
        case _:
            owners = _through_flwr(config, labels, clients, rng)
    return Partition.from_owners(owners, clients)


def _people(config: Natural, identity: IntArray | None, clients: int) -> tuple[IntArray, IntArray]:
    """Return the identity of each row, (n,), and the same with codes from 0 without gaps."""
    if identity is None:
        raise FedsimError("data.partition: natural needs an `identity` array, which this data set lacks")
    known, codes = np.unique(identity, return_inverse=True)
    if clients != len(known):
        raise FedsimError(f"clients: natural makes one client per {config.by}, here {len(known)}, got {clients}")
    return identity, codes


_REDRAWS = 10


def _dirichlet(config: Dirichlet, labels: IntArray, clients: int, rng: np.random.Generator) -> IntArray:
    """Return the same owners as flwr's DirichletPartitioner, without its import, which takes seconds."""
    order = rng.permutation(len(labels))
    cuts = np.random.default_rng(int(rng.integers(2**63 - 1)))
    owners = np.empty(len(labels), dtype=np.int64)
    for _ in range(1 + _REDRAWS):
        held = np.zeros(clients, dtype=np.int64)
        for c in np.unique(labels):
            rows = order[labels[order] == c]
            shares = cuts.dirichlet(np.full(clients, config.alpha))
            if config.balance:
                shares[held * clients >= len(labels)] = 0
                with np.errstate(invalid="ignore"):  # 0 / 0 if only full clients have nonzero shares
                    shares /= shares.sum()
            shares = np.cumsum(shares)
            if not np.isfinite(shares).all():
                raise FedsimError(f"data.partition.alpha: {config.alpha} is too small for {clients} clients; raise it")
            bounds = (shares * len(rows)).astype(np.int64)
            bounds[-1] = len(rows)
            due = np.diff(bounds, prepend=0)
            owners[rows] = np.repeat(np.arange(clients), due)
            held += due
        if np.bincount(owners, minlength=clients).min() >= config.min_samples:
            return owners
    raise FedsimError(
        f"data.partition: dirichlet cannot split {len(labels)} samples over {clients} clients ({1 + _REDRAWS} draws "
        f"left some client fewer than {config.min_samples}); lower min_samples or raise alpha"
    )


def _multinomial(config: Multinomial, labels: IntArray, clients: int, rng: np.random.Generator) -> IntArray:
    num_classes = int(labels.max()) + 1
    legacy = np.random.RandomState(int(rng.integers(2**32)) if config.seed is None else config.seed)
    # The authors first draw which client may hold which class. All draws are 1, but they advance the generator.
    legacy.binomial(1, 1, size=(clients, num_classes))
    owners = np.empty(len(labels), dtype=np.int64)
    for c in range(num_classes):
        rows = np.flatnonzero(labels == c)
        chances = legacy.dirichlet(np.full(clients, config.alpha))
        if not np.isfinite(chances).all():
            raise FedsimError(f"data.partition.alpha: {config.alpha} is too small for {clients} clients; raise it")
        owners[rows] = legacy.choice(clients, size=len(rows), p=chances)
    return owners


def _equal_classes(per_client: int, labels: IntArray, clients: int, rng: np.random.Generator) -> IntArray:
    """Assign classes, and equal shares of each class, to clients.

    One client after another draws its classes one by one. It draws uniformly among the classes that it does not have
    yet and that have the most places left (the split of arXiv:2103.04628, as in arXiv:2306.05515).
    """
    classes = np.unique(labels)
    holders, rest = divmod(clients * per_client, len(classes))
    if per_client > len(classes) or rest or not holders:
        raise FedsimError(
            f"data.partition.classes_per_client: {clients} clients of {per_client} classes cannot hold {len(classes)} "
            "classes equally often; make clients times classes_per_client a multiple of the number of classes"
        )
    places = np.full(len(classes), holders)
    held: list[list[int]] = [[] for _ in classes]
    for client in range(clients):
        open_to_it = np.ones(len(classes), bool)
        for _ in range(per_client):
            most = np.flatnonzero(open_to_it & (places == places[open_to_it].max()))
            drawn = int(rng.choice(most))
            open_to_it[drawn] = False
            places[drawn] -= 1
            held[drawn].append(client)
    owners = np.full(len(labels), -1, np.int64)
    for name, mine in zip(classes, held, strict=True):
        rows = rng.permutation(np.flatnonzero(labels == name))
        share = len(rows) // holders
        if not share:
            few = f"{len(rows)} samples of class {name} for {holders} clients"
            raise FedsimError(f"data.partition: {few}; {_REMEDIES['pathological']}")
        owners[rows[: share * holders]] = np.repeat(mine, share)
    return owners


def _sites(config: Sites, labels: IntArray, clients: int, rng: np.random.Generator) -> IntArray:
    """Give site k T s_k pi_kc samples of class c, with its size s_k, its prior pi_k, and the largest possible T."""
    held = np.bincount(labels)
    if config.priors is None:
        priors = np.zeros((clients, len(held)))
        shares = held[held > 0] / len(labels)
        priors[:, held > 0] = rng.dirichlet(config.alpha * len(shares) * shares, clients)
    else:
        priors = np.array(config.priors)
        if priors.shape != (clients, len(held)):
            raise FedsimError(
                f"data.partition.priors: needs {clients} lists (clients) of {len(held)} numbers (classes), got "
                f"{len(priors)} of {priors.shape[-1]}"
            )
    sizes = np.ones(clients) if config.sizes is None else np.array(config.sizes)
    if len(sizes) != clients:
        raise FedsimError(f"data.partition.sizes: needs one number per client, {clients}, got {len(sizes)}")
    wanted = sizes[:, None] * priors / priors.sum(axis=1, keepdims=True)
    asked = wanted.sum(axis=0)
    with np.errstate(over="ignore"):  # for a class with almost no demand
        scale = (held[asked > 0] / asked[asked > 0]).min()
    # Rounded down cumulatively along each class: no class is exceeded, and no site is off by a whole sample. The
    # margin keeps whole products whole.
    due = np.diff(np.floor(scale * wanted.cumsum(axis=0) + 1e-6).astype(np.int64), axis=0, prepend=0)
    owners = np.full(len(labels), -1)
    for c in range(len(held)):
        rows = rng.permutation(np.flatnonzero(labels == c))
        owners[rows[: due[:, c].sum()]] = np.repeat(np.arange(clients), due[:, c])
    return owners


def _through_flwr(config: PartitionConfig, column: IntArray, clients: int, rng: np.random.Generator) -> IntArray:
    """Return the owner of every row, (n,), -1 for none, from flwr-datasets' partitioner over one column."""
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):  # messages of retries, pyarrow and tqdm
        warnings.simplefilter("ignore")
        # Imported here: it takes seconds, as it imports seaborn.
        from datasets import Dataset

        class Columns(Dataset):  # type: ignore[misc] # datasets has no types
            """Returns a column as an array at once; the Python loop that it replaces takes 10 s for a million rows."""

            def __getitem__(self, key: Any) -> Any:
                return self.data.column(key).to_numpy() if isinstance(key, str) else super().__getitem__(key)

        # flwr splits a class in row order. A random row order makes the choice within the class random as well.
        order = rng.permutation(len(column))
        partitioner = _flwr_partitioner(config, clients, int(rng.integers(2**63 - 1)))
        partitioner.dataset = Columns.from_dict({"column": column[order], "row": order})
        try:
            partitioner.load_partition(0)
        except (ValueError, ZeroDivisionError) as error:  # ZeroDivisionError: shards without samples
            # The rest of flwr's message advises on options that do not exist here.
            reason = "too few" if isinstance(error, ZeroDivisionError) else " ".join(str(error).split(". ")[0].split())
            raise FedsimError(
                f"data.partition: {config.name} cannot split {len(column)} samples over {clients} clients ({reason}); "
                f"{_REMEDIES[config.name]}"
            ) from error
        # Read the lists directly: load_partition takes about a millisecond per client.
        lists: dict[int, list[int]] = partitioner._partition_id_to_indices
        # Shards have sorted the dataset, so use its own row column. Arrow's format is 10 times faster than NumPy's
        # here.
        rows = partitioner.dataset.with_format("arrow")[:]["row"].to_numpy()
    positions = np.fromiter(itertools.chain.from_iterable(lists.values()), dtype=np.int64)
    owners = np.full(len(column), -1)
    owners[rows[positions]] = np.repeat(list(lists), [len(part) for part in lists.values()])
    return owners


def _flwr_partitioner(config: PartitionConfig, clients: int, seed: int) -> Any:
    from flwr_datasets import partitioner as flwr

    match config:
        case Pathological(classes_per_client=classes):
            # The other modes omit classes even if there are enough clients for all.
            mode = "first-deterministic"
            return flwr.PathologicalPartitioner(clients, "column", classes, mode, shuffle=False, seed=seed)
        case Shards(shards_per_client=shards):
            return flwr.ShardPartitioner(clients, "column", shards, shuffle=False, seed=seed)
        case _:
            return flwr.NaturalIdPartitioner("column")
