"""Parses the samples to forget from text.

`client=7`, `class=3`, `identity=12`, `first=1500`, `indices=FILE`, `random=0.01` or `canaries=mislabelled`; several are
joined with `+`. Numbers may be ranges, `identity=190-1249`. A column of a folder of images, such as
`family_id=F0001`, is used by its name.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from fedsim.data.federation import FederatedData
from fedsim.data.listing import CodedColumn
from fedsim.errors import FedsimError, nearest
from fedsim.paths import expanded
from fedsim.randomness import generator
from fedsim.reading import require_regular
from unlearning.pipeline.source import Source

IntArray = npt.NDArray[np.int64]

_KINDS = {
    "client": "clients",
    "clients": "clients",
    "class": "class",
    "identity": "samples",
    "first": "samples",
    "indices": "samples",
    "random": "samples",
    "canaries": "samples",
}
_FORMS = (
    "client=7, clients=7,9, class=3, identity=12, first=1500, indices=FILE, random=0.01 or canaries=mislabelled, "
    "joined with +"
)
_COUNTED = ("first", "random")
"""Kinds that count samples that were trained on, and name none."""
_SHOWN = 20


@dataclass(frozen=True, eq=False)
class Request:
    """A parsed forget specification."""

    spec: str
    kind: str
    """class, samples or clients; samples if the parts are of several kinds."""
    rows: IntArray
    """(F,) training rows to forget, ascending; each is held by some client."""
    retain: IntArray
    """(R,) all other training rows that a client holds, ascending; never empty."""
    unseen: IntArray = field(default_factory=lambda: np.empty(0, np.int64))
    """(U,) rows that the request also names at clients that training never sees, such as rows of a class; in no
    model."""
    several_labels: bool = False
    """Whether samples have several labels instead of one class."""

    def left(self, data: FederatedData) -> FederatedData:
        """Return the data without all rows that the request names."""
        return data.without(np.concatenate([self.rows, self.unseen]))


def parse_in_sequence(specs: Sequence[str], source: Source, earlier: Sequence[str] = ()) -> list[Request]:
    """Return requests in sequence: each uses the rows that remain after the requests before it and `earlier` ones."""
    before, requests, data, everyone = list(earlier), [], source.data, source.everyone
    for spec in specs:
        requests.append(parse_forget(spec, data, source.config.seed, before, everyone))
        before.append(spec)
        if len(requests) < len(specs):
            data, everyone = requests[-1].left(data), requests[-1].left(everyone)
    return requests


def parse_forget(
    spec: str, data: FederatedData, seed: int, earlier: Sequence[str] = (), everyone: FederatedData | None = None
) -> Request:
    """Return the request for the rows that `spec` names; `seed`, that of the run, draws the rows of `random=`.

    `earlier` are the requests that led to `data`; an error line mentions that a sample may belong to these.
    `everyone` is `data` with the clients that training never sees: of these nothing can be forgotten.

    Raises
    ------
    FedsimError
        If it is malformed, or names something unknown, no sample, or all samples.
    """
    parts = [part.partition("=") for part in re.split(r"\+(?=\s*\w+\s*=)", spec)]
    rows, unseen, kinds = [], [np.empty(0, np.int64)], set()
    for number, (key, equals, value) in enumerate(parts):
        key, value = key.strip(), value.strip()
        if not equals or not value:
            raise FedsimError(f"--forget {spec}: must have the form {_FORMS}")
        known = {**dict.fromkeys(data.dataset.columns, "samples"), **_KINDS}
        if key not in known:
            raise FedsimError(f"--forget {spec}: {key!r} cannot be forgotten; {nearest(key, known)}")
        kinds.add(known[key])
        try:
            rows.append(_rows(key, value, data, seed, number))
        except FedsimError as error:
            if known[key] == "clients" and (column := _column_with(value, data)):
                raise FedsimError(
                    f"--forget {spec}: clients have no names here, and {value} is one in column {column}; write "
                    f"{column}={value}"
                ) from None
            if everyone is not None and (never := _never_trained(key, value, data, everyone)):
                raise FedsimError(
                    f"--forget {spec}: training never saw client {never} (clients_unseen), so nothing of it is in the "
                    "model; leave it out"
                ) from None
            gone = f"; forgotten before: {', '.join(earlier)}" if earlier else ""
            raise FedsimError(f"--forget {spec}: {error}{gone}") from None
        if everyone is not None and key not in _COUNTED:
            unseen.append(np.setdiff1d(_rows(key, value, everyone, seed, number), data.partition.indices))
    everything = np.sort(data.partition.indices)
    forget = np.unique(np.concatenate(rows))
    retain = np.setdiff1d(everything, forget, assume_unique=True)
    if not len(forget):
        raise FedsimError(f"--forget {spec}: names none of the {len(everything)} training samples; name more")
    if not len(retain):
        raise FedsimError(f"--forget {spec}: names all {len(everything)} training samples; leave some to keep")
    kind = kinds.pop() if len(kinds) == 1 else "samples"
    return Request(spec, kind, forget, retain, np.unique(np.concatenate(unseen)), data.dataset.has_several_labels)


def _column_with(value: str, data: FederatedData) -> str:
    """Return the column that has this name in it, where clients have no names themselves; empty if there is none."""
    if data.dataset.client_names is not None:
        return ""
    return next((name for name, column in data.dataset.columns.items() if value in (column.names or ())), "")


def _never_trained(key: str, value: str, data: FederatedData, everyone: FederatedData) -> str:
    """Return the clients whose samples this names although training never sees them; empty if there are none."""
    try:
        rows = np.empty(0, np.int64) if key in _COUNTED else _rows(key, value, everyone, 0, 0)
    except FedsimError:
        return ""
    held = everyone.partition
    named = np.isin(held.indices, np.setdiff1d(rows, data.partition.indices))
    return ", ".join(map(str, np.unique(held.owners[named])))


def _rows(key: str, value: str, data: FederatedData, seed: int, number: int) -> IntArray:
    held, dataset = data.partition.indices, data.dataset
    match key:
        case "client" | "clients":
            wanted = _known(
                key, value, np.arange(len(data.partition)), np.flatnonzero(data.partition.sizes), dataset.client_names
            )
            return np.concatenate([data.partition[client] for client in wanted])
        case "class" if dataset.has_several_labels:
            raise FedsimError("these samples have several labels, not a class; name clients, identities or indices")
        case "class":
            owned = dataset.y_train[held]
            return held[
                np.isin(
                    owned,
                    _known(key, value, np.arange(dataset.num_classes), np.unique(owned), dataset.class_names),
                )
            ]
        case "identity" if dataset.identity_train is None:
            raise FedsimError("this data set has no identities; name clients, classes or indices")
        case "first":
            count = int(value) if re.fullmatch(r"\d{1,18}", value) else 0
            if not 0 < count < len(held):
                raise FedsimError(f"first must be from 1 to {len(held) - 1} of the {len(held)} samples, got {value!r}")
            return np.sort(held)[:count]
        case "indices":
            return _from_file(expanded(value), held, len(dataset.y_train))
        case "canaries":
            planted = {} if data.canaries is None else {k: r for k, r in data.canaries.rows.items() if len(r)}
            if value not in planted:
                raise FedsimError(f"this run has no canaries of that kind; {nearest(value, planted)}")
            return np.intersect1d(planted[value], held)
        case "random":
            count = round(_share(value) * len(held))
            return generator(seed, "forget-random", number).choice(np.sort(held), count, replace=False)
        case _:
            if (column := dataset.columns.get(key)) is None:
                assert dataset.identity_train is not None
                column = CodedColumn(dataset.identity_train, None)
            codes, names = column
            owned = codes[held]
            return held[np.isin(owned, _known(key, value, np.unique(codes), np.unique(owned), names))]


def straddling(request: Request, data: FederatedData) -> list[str]:
    """Return a line on the number of people with samples both to forget and to keep; empty if there are none."""
    identity = data.dataset.identity_train
    if identity is None or not (both := np.intersect1d(identity[request.rows], identity[request.retain]).size):
        return []
    return [f"{both} identities have samples both to forget and to keep: the kept ones may reveal the others"]


def untrained(request: Request) -> list[str]:
    """Return a line on the samples of clients that training never sees which a request names; empty without such."""
    if not (count := len(request.unseen)):
        return []
    return [f"{count:,} of its samples are with clients that training never saw: in no model, and out of the data now"]


def _known(key: str, value: str, valid: IntArray, trained: IntArray, names: tuple[str, ...] | None = None) -> list[int]:
    """Return the ids in `value`: each must be one of the `valid`, and one of the `trained`, which hold a sample.

    If the ids have `names`, names take precedence: class=3 is the class with the name "3". A range means
    those of its ids that have a training sample.
    """
    what = {"clients": "client"}.get(key, key)
    ids = []
    called = {name: number for number, name in enumerate(names or ())}
    for text in [value] if value in called else value.split(","):
        if (found := called.get(text.strip())) is not None:
            text = str(found)
        elif ends := re.fullmatch(r"\s*(\d{1,18})-(\d{1,18})\s*", text):
            low, high = map(int, ends.groups())
            within = trained[(trained >= low) & (trained <= high)].tolist()
            if not within:
                raise FedsimError(f"no {what} from {low} to {high} has a training sample; there are {_some(valid)}")
            ids += within
            continue
        elif called and not re.fullmatch(r"\s*\d{1,18}\s*", text):
            raise FedsimError(f"no {what} {text.strip()!r}; {nearest(text.strip(), called)}")
        if not re.fullmatch(r"\d{1,18}", text.strip()):
            raise FedsimError(f"{key} must be a number, or several joined with commas, got {text.strip()!r}")
        ids.append(int(text))
        if ids[-1] not in valid:
            raise FedsimError(f"no {what} {ids[-1]}; valid: {_some(valid)}")
        if ids[-1] not in trained:
            raise FedsimError(f"{what} {ids[-1]} has no training sample, so there is nothing to forget")
    return ids


def _some(valid: IntArray) -> str:
    if len(valid) == valid[-1] + 1:
        return f"0 to {valid[-1]}"
    return ", ".join(map(str, valid[:_SHOWN])) + (", ..." if len(valid) > _SHOWN else "")


def _share(value: str) -> float:
    try:
        share = float(value)
    except ValueError:
        share = np.nan
    if not 0 < share < 1:
        raise FedsimError(f"random must be a share of the training samples between 0 and 1, got {value!r}")
    return share


def _from_file(path: Path, held: IntArray, num_rows: int) -> IntArray:
    """Return the rows in a file: an integer `.npy`, or text with numbers separated by spaces, commas or line ends."""
    try:
        require_regular(path)
        if path.suffix == ".npy":
            rows = np.load(path, allow_pickle=False)
        else:
            words = re.split(r"[\s,]+", path.read_text(encoding="utf-8"))
            rows = np.array([int(word) for word in words if word], dtype=np.int64)
        if not isinstance(rows, np.ndarray) or rows.ndim != 1 or rows.dtype.kind not in "iu":
            raise ValueError
    except OSError as error:
        raise FedsimError(f"{path} cannot be read ({error.strerror or error}); give a file of row numbers") from None
    except (ValueError, EOFError, OverflowError):
        raise FedsimError(f"{path} does not hold one list of whole numbers; give them as text or .npy") from None
    if len(outside := rows[(rows < 0) | (rows >= num_rows)]):
        raise FedsimError(f"{path}: row {outside[0]} is out of range; training rows are 0 to {num_rows - 1}")
    if len(untrained := np.setdiff1d(rows, held)):
        raise FedsimError(f"{path}: row {untrained[0]} was held by no client, so it was never trained on; leave it out")
    return rows.astype(np.int64)
