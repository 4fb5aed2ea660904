from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, reject, settings
from hypothesis import strategies as st

from fedsim.config.resolve import resolve
from fedsim.data.datasets import Dataset
from fedsim.data.federation import FederatedData, federate
from fedsim.data.listing import CodedColumn
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError
from unlearning.pipeline.forget import parse_forget, straddling

CLASSES, PEOPLE = 4, 5


def federation(owners: list[int], clients: int) -> FederatedData:
    """Row i is of class i % 4 and of person i % 5, and belongs to `owners[i]`, -1 for nobody."""
    rows = np.arange(len(owners))
    x = np.zeros((len(rows), 2), np.float32)
    y = rows % CLASSES
    dataset = Dataset(
        "made", x, y, x[:8], y[:8], CLASSES, (0.0, 0.0), (1.0, 1.0), identity_train=rows % PEOPLE,
        columns={"family": CodedColumn(rows % 2, ("kim", "lee")), "site": CodedColumn(np.where(rows < 10, 7, 3), None)},
    )  # fmt: skip
    partition = Partition.from_owners(np.array(owners), clients)
    counts = np.bincount(y[partition.indices], minlength=CLASSES)
    nothing = Partition.from_lists([[]] * clients)
    return FederatedData(dataset, partition, nothing, "test", counts, nothing)


# Clients 0 to 2 with 13 rows each, and one row, the last, that is nobody's; client 3 has none.
DATA = federation([row % 3 for row in range(39)] + [-1], clients=4)


@pytest.mark.parametrize(
    ("spec", "kind", "rows"),
    [
        ("client=1", "clients", range(1, 39, 3)),
        (" clients = 0, 2 ", "clients", [row for row in range(39) if row % 3 != 1]),
        ("class=3", "class", range(3, 39, 4)),
        ("class=1+class=2", "class", [row for row in range(39) if row % 4 in (1, 2)]),
        ("identity=0", "samples", range(0, 39, 5)),
        ("identity=1-2", "samples", [row for row in range(39) if row % 5 in (1, 2)]),
        ("identity=3-99,0", "samples", [row for row in range(39) if row % 5 in (3, 4, 0)]),
        ("family=kim", "samples", range(0, 39, 2)),
        ("site=7", "samples", range(10)),
        ("first=4", "samples", range(4)),
        ("client=0+class=0", "samples", [row for row in range(39) if row % 3 == 0 or row % 4 == 0]),
    ],
)
def test_a_specification_names_rows(spec: str, kind: str, rows: range | list[int]) -> None:
    request = parse_forget(spec, DATA, seed=0)
    assert (request.kind, request.rows.tolist()) == (kind, list(rows))


@pytest.mark.parametrize(("name", "text"), [("rows.txt", "3, 5\n8\n"), ("a+b.txt", "3 5 8"), ("rows.npy", None)])
def test_rows_come_from_a_file(tmp_path: Path, name: str, text: str | None) -> None:
    if text is None:
        np.save(tmp_path / name, np.array([3, 5, 8, 8], np.uint16))
    else:
        (tmp_path / name).write_text(text)
    request = parse_forget(f"indices={tmp_path / name}+random=0.1", DATA, seed=0)
    assert {3, 5, 8} <= set(request.rows.tolist())
    assert request.kind == "samples"


def test_random_is_drawn_by_the_seed() -> None:
    draws = [parse_forget("random=0.2", DATA, seed).rows.tolist() for seed in (0, 0, 1)]
    assert draws[0] == draws[1] != draws[2]
    assert len(draws[0]) == round(0.2 * 39)


@settings(deadline=None, max_examples=50)
@given(
    owners=st.lists(st.integers(-1, 3), min_size=8, max_size=60),
    parts=st.lists(
        st.one_of(
            st.integers(0, 3).map("client={}".format), st.integers(0, CLASSES - 1).map("class={}".format),
            st.integers(0, PEOPLE - 1).map("identity={}".format), st.floats(0.05, 0.9).map("random={}".format),
        ), min_size=1, max_size=3,
    ),
)  # fmt: skip
def test_forget_and_retain_part_what_clients_hold(owners: list[int], parts: list[str]) -> None:
    data = federation(owners, clients=4)
    try:
        request = parse_forget("+".join(parts), data, seed=3)
    except FedsimError:
        reject()
    forget, retain = set(request.rows.tolist()), set(request.retain.tolist())
    assert forget
    assert retain
    assert not forget & retain
    assert forget | retain == set(data.partition.indices.tolist())
    left = data.without(request.rows)
    assert set(left.partition.indices.tolist()) == retain
    assert len(left.partition) == len(data.partition)
    for client in range(4):
        kept = [row for row in data.partition[client].tolist() if row in retain]
        assert left.partition[client].tolist() == kept  # in their old order: batches are drawn by position
    assert left.class_counts.tolist() == [sum(row % CLASSES == c for row in retain) for c in range(CLASSES)]


@pytest.mark.parametrize(
    ("spec", "line"),
    [
        ("", "must have the form client=7"),
        ("3", "must have the form"),
        ("client=", "must have the form"),
        ("client=1+", "client must be a number"),
        ("clas=3", "'clas' cannot be forgotten; did you mean 'class'"),
        ("client=kim", "clients have no names here, and kim is one in column family; write family=kim"),
        ("client=4", "no client 4; valid: 0 to 3"),
        ("client=-1", "client must be a number.*'-1'"),
        ("client=1.5", "client must be a number"),
        ("clients=1,,2", "clients must be a number"),
        ("client=99999999999999999999", "client must be a number"),
        ("client=3", "client 3 has no training sample"),
        ("class=4", "no class 4; valid: 0 to 3"),
        ("identity=7", "no identity 7; valid: 0 to 4"),
        ("random=0", "between 0 and 1, got '0'"),
        ("random=1", "between 0 and 1"),
        ("random=nan", "between 0 and 1"),
        ("random=few", "between 0 and 1"),
        ("random=0.001", "names none of the 39 training samples"),
        ("clients=0,1,2", "names all 39 training samples"),
        ("class=0,1,2,3", "names all"),
        ("indices={absent}", "absent cannot be read .No such file"),
        ("indices={folder}", "cannot be read .Is a directory"),
        ("indices={words}", "does not hold one list of whole numbers"),
        ("indices={binary}", "does not hold one list of whole numbers"),
        ("indices={floats}", "does not hold one list of whole numbers"),
        ("indices={square}", "does not hold one list of whole numbers"),
        ("indices={pickle}", "does not hold one list of whole numbers"),
        ("indices={empty}", "names none"),
        ("indices={far}", "row 40 is out of range; training rows are 0 to 39"),
        ("indices={negative}", "row -1 is out of range"),
        ("indices={unowned}", "row 39 was held by no client"),
    ],
)
def test_a_bad_specification_is_refused(tmp_path: Path, spec: str, line: str) -> None:
    places = {
        name: str(tmp_path / name) for name in ("absent", "words", "binary", "empty", "far", "negative", "unowned")
    }
    places |= {name: str(tmp_path / f"{name}.npy") for name in ("floats", "square", "pickle")}
    (tmp_path / "words").write_text("1 two")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "empty").touch()
    (tmp_path / "far").write_text("0\n40")
    (tmp_path / "negative").write_text("-1")
    (tmp_path / "unowned").write_text("39")
    np.save(places["floats"], np.array([1.0]))
    np.save(places["square"], np.zeros((2, 2), int))
    np.save(places["pickle"], np.array([None]), allow_pickle=True)
    with pytest.raises(FedsimError, match=line) as error:
        parse_forget(spec.format(folder=tmp_path, **places), DATA, seed=0)
    assert str(error.value).startswith("--forget ")
    assert "\n" not in str(error.value)


def test_a_data_set_without_identities_has_none_to_forget() -> None:
    data = replace(DATA, dataset=replace(DATA.dataset, identity_train=None))
    with pytest.raises(FedsimError, match="no identities"):
        parse_forget("identity=1", data, seed=0)


def test_the_hash_knows_samples_labels_and_owners() -> None:
    config = resolve({"data.max_per_class": 20, "data.partition": "iid"})
    data, again = (federate(config.data, 5, seed=0) for _ in range(2))
    assert data.content_hash == again.content_hash
    x = data.dataset.x_train.copy()
    x[0, 0, 0, 0] ^= 1
    others = [
        federate(config.data, 5, seed=1),
        federate(config.data, 6, seed=0),
        data.without(data.partition[0][:1]),
        replace(data, dataset=replace(data.dataset, x_train=x)),
        replace(data, dataset=replace(data.dataset, y_test=data.dataset.y_test[::-1].copy())),
    ]
    assert len({data.content_hash, *(other.content_hash for other in others)}) == 1 + len(others)


def test_people_on_both_sides_are_counted() -> None:
    assert straddling(parse_forget("identity=0", DATA, seed=0), DATA) == []
    (line,) = straddling(parse_forget("first=3", DATA, seed=0), DATA)
    assert line.startswith("3 identities have samples both to forget and to keep")
    without = replace(DATA, dataset=replace(DATA.dataset, identity_train=None))
    assert straddling(parse_forget("first=3", without, seed=0), without) == []


def test_rows_that_nobody_holds_tell_nothing() -> None:
    left = DATA.without(np.arange(20, 39))
    assert not left.dataset.columns["family"].codes[20:].any()
    assert DATA.dataset.columns["family"].codes[20:].any()
