import json
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.errors import FedsimError
from fedsim.runs.folder import RunFolder, flatten, run_labels
from tests.fedsim.conftest import ROWS, MakeRun
from tests.tiny_runs import TINY, Cli


def refusal(path: Path) -> str:
    with pytest.raises(FedsimError) as caught:
        _ = RunFolder.open(path).label_counts
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_reads_all_parts(make_run: MakeRun) -> None:
    run = RunFolder.open(str(make_run("a")))
    assert (run.name, run.status, run.rounds_done, run.rounds) == ("a", "finished", 4, 4)
    assert run.option("data.partition.alpha") == 0.3
    assert run.option("data.name.nothing") is None
    assert run.flat_config["strategy.mu"] == 0.01
    assert run.environment["python"] == "3.11"
    assert run.metric_names == [
        "clients/accuracy",
        "global/accuracy",
        "global/loss",
        "global_psi/accuracy",
        "train/loss",
    ]
    assert run.label_counts is not None
    np.testing.assert_array_equal(run.label_counts, [[5, 0, 1], [0, 7, 0], [2, 2, 2]])
    np.testing.assert_array_equal(run.per_class_accuracy, [0.9, 0.5, np.nan])
    np.testing.assert_array_equal(run.class_counts, [7, 9, 3])


def test_series_has_the_rounds_where_the_metric_was_measured(make_run: MakeRun) -> None:
    run = RunFolder.open(make_run())
    rounds, values = run.series("global/accuracy")
    assert rounds.tolist() == [2, 4]
    assert values.tolist() == [0.25, 0.875]
    assert [len(part) for part in run.series("no/such")] == [0, 0]


@pytest.mark.parametrize("status", ["finished", "stopped", "failed"])
def test_status_is_the_summarys(make_run: MakeRun, status: str) -> None:
    assert RunFolder.open(make_run(summary={"status": status})).status == status


def test_a_killed_run_is_unfinished_and_tells_its_newest_values(make_run: MakeRun) -> None:
    run = RunFolder.open(make_run("killed", rows=ROWS[:3], summary=None, environment=None))
    assert (run.status, run.name, run.rounds_done, run.rounds, run.summary) == ("unfinished", "killed", 3, 4, None)
    assert run.final_metrics == {"train/loss": 1.0, "global/accuracy": 0.25, "global/loss": 1.75}
    assert run.per_class_accuracy is None
    assert run.environment == {}
    # Class sizes are then the column sums of the partition.
    assert run.class_counts is not None
    assert run.class_counts.tolist() == [7, 9, 3]


def test_a_run_without_any_metrics(make_run: MakeRun) -> None:
    run = RunFolder.open(make_run(rows=None, summary=None, counts=None))
    assert run.metrics == ()
    assert (run.metric_names, run.final_metrics, run.rounds_done) == ([], {}, 0)
    assert run.label_counts is None
    assert run.class_counts is None


@pytest.mark.parametrize(
    "tail", [b'{"round": 5, "met', b'{"round": 5, "metrics": {"a": 1}\n', b"\x00\x00\x00", b"\xff\xfe{"]
)
def test_a_torn_last_line_is_left_out(make_run: MakeRun, tail: bytes) -> None:
    path = make_run()
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(tail)
    assert [row.round for row in RunFolder.open(path).metrics] == [1, 2, 3, 4]


def test_a_last_line_without_its_newline_is_whole(make_run: MakeRun) -> None:
    path = make_run()
    with (path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"round": 5, "time_s": 1, "metrics": {}}')
    assert RunFolder.open(path).rounds_done == 4  # the summary's
    assert RunFolder.open(path).metrics[-1].round == 5


@pytest.mark.parametrize(
    "line", ["{", "[1]", '{"metrics": {}}', '{"round": -1}', '{"round": 2, "metrics": {"a": "high"}}', "\x00"]
)
def test_a_malformed_line_in_the_middle_is_refused(make_run: MakeRun, line: str) -> None:
    path = make_run()
    lines = (path / "metrics.jsonl").read_text().splitlines()
    (path / "metrics.jsonl").write_text("\n".join([*lines[:2], line, *lines[2:]]))
    text = refusal(path)
    assert text.startswith(f"{path / 'metrics.jsonl'}: line 3 is malformed")
    assert f"fedsim run --resume {path} writes it anew" in text


def test_rounds_that_were_run_again_are_merged_in_order(make_run: MakeRun) -> None:
    again = [
        {"round": 3, "time_s": 9.0, "metrics": {"global/accuracy": 0.5}},
        {"round": 4, "time_s": 9.5, "metrics": {"global/accuracy": 0.75}},
    ]
    run = RunFolder.open(make_run(rows=[*ROWS, *again]))
    assert [row.round for row in run.metrics] == [1, 2, 3, 4]
    assert run.series("global/accuracy")[1].tolist() == [0.25, 0.5, 0.75]
    assert run.series("train/loss")[1].tolist() == [2.0, 1.5, 1.0, 0.5]


def test_null_and_nan_values_are_nan(make_run: MakeRun) -> None:
    path = make_run(summary=None, rows=[{"round": 1, "metrics": {"global/loss": None, "train/loss": float("nan")}}])
    run = RunFolder.open(path)
    assert np.isnan(run.series("global/loss")[1]).all()
    assert np.isnan(list(run.final_metrics.values())).all()


def test_missing_folder_names_the_nearest_run(make_run: MakeRun) -> None:
    path = make_run("digits-fedavg")
    text = refusal(path.with_name("digits-fedavgg"))
    assert "no such run folder" in text
    assert "did you mean 'digits-fedavg'?" in text


def test_folder_of_runs_names_them(make_run: MakeRun) -> None:
    parent = make_run("runs/a").parent
    make_run("runs/b")
    assert refusal(parent) == f"{parent}: not a run folder, it has no config.yaml; give one of the runs in it: a, b"


def test_missing_folder_among_no_runs(tmp_path: Path) -> None:
    assert "'fedsim run'" in refusal(tmp_path / "nothing" / "here")
    assert "'fedsim run'" in refusal(tmp_path)


def test_a_file_of_a_run_names_its_folder(make_run: MakeRun) -> None:
    path = make_run()
    assert (
        refusal(path / "config.yaml") == f"{path / 'config.yaml'}: is a file, not a run folder; give its folder: {path}"
    )
    elsewhere = path.parent / "file"
    elsewhere.touch()
    assert "is a file, not a run folder" in refusal(elsewhere)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("config.yaml", "a: [1"),
        ("config.yaml", "a: b: c"),
        ("config.yaml", "- a list"),
        ("config.yaml", ""),
        ("config.yaml", "!!python/object/apply:os.system [ls]"),
        ("config.yaml", "a: 2020-13-45"),
        ("config.yaml", "&a {b: *a}"),
        ("config.yaml", "a: \x00"),
        ("environment.json", "{"),
        ("environment.json", "[]"),
        ("summary.json", "{"),
        ("summary.json", "{}"),
        ("summary.json", "[]"),
        ("summary.json", '{"status": "happy"}'),
        ("summary.json", '{"status": "finished", "metrics": {"a": "b"}}'),
        ("summary.json", '{"status": "finished", "per_class_accuracy": 3}'),
        ("partition.npz", "no archive"),
        ("partition.npz", ""),
    ],
)
def test_malformed_files_are_refused_in_one_line(make_run: MakeRun, name: str, content: str) -> None:
    path = make_run()
    (path / name).write_text(content)
    text = refusal(path)
    assert text.startswith(f"{path / name}: ")
    assert "give another run" in text


def test_bytes_that_are_no_text_are_refused(make_run: MakeRun) -> None:
    for name in ("config.yaml", "environment.json", "summary.json"):
        path = make_run(name)
        (path / name).write_bytes(b"\xff\xfe\x00\x9f")
        assert refusal(path).startswith(f"{path / name}: ")


@pytest.mark.parametrize("counts", [[1, 2], [[0.5]], [[-1]], np.zeros((0, 3), int), np.array([[{}]], dtype=object)])
def test_label_counts_must_be_counts_and_are_never_unpickled(make_run: MakeRun, counts: object) -> None:
    path = make_run(counts=counts)
    assert refusal(path).startswith(f"{path / 'partition.npz'}: ")


def test_damaged_archive_is_refused(make_run: MakeRun) -> None:
    path = make_run()
    np.savez_compressed(path / "partition.npz", label_counts=np.arange(6000).reshape(100, 60))
    content = bytearray((path / "partition.npz").read_bytes())
    content[200:260] = bytes(60)
    (path / "partition.npz").write_bytes(bytes(content))
    assert "cannot be read" in refusal(path)
    np.savez(path / "partition.npz", other=np.ones(1))
    assert "label_counts" in refusal(path)


def test_class_groups_are_told_where_the_run_measured_them(make_run: MakeRun) -> None:
    assert RunFolder.open(make_run("plain")).class_groups is None
    # 75 % of 100 samples are reached by the first class of falling size, 95 % by the second.
    summary = {"metrics": {"global/accuracy_many": 0.5}, "class_counts": [4, 80, 16]}
    assert RunFolder.open(make_run("tail", summary=summary)).class_groups == ["few", "many", "medium"]
    own = RunFolder.open(make_run("own", summary={**summary, "class_groups": ["few", "few", "many"]}))
    assert own.class_groups == ["few", "few", "many"]
    even = RunFolder.open(make_run("even", summary={**summary, "class_counts": [10, 19, 10]}))
    assert (even.class_groups, even.long_tailed) == (None, False)


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": {}}, "d": [2]}) == {"a.b": 1, "a.c": {}, "d": [2]}


def test_labels_of_runs_differ(make_run: MakeRun) -> None:
    a, b, c = (
        RunFolder.open(make_run(f"{x}/same", summary={"name": n})) for x, n in [("x", "n"), ("y", "n"), ("z", "m")]
    )
    assert run_labels([a, b, c]) == [str(a.path), str(b.path), "m"]
    assert run_labels([a, a]) == [f"{a.path} (1)", f"{a.path} (2)"]


@pytest.mark.parametrize("damage", ["a digit", "a mark", "gone"])
def test_damaged_metrics_are_written_anew_as_the_line_says(
    damage: str, tmp_path: Path, cli: Cli, no_pictures: None
) -> None:
    run = fedsim.run(TINY, overrides={"out": str(tmp_path)}).folder
    file = run / "metrics.jsonl"
    whole = file.read_bytes()
    file.write_bytes(
        {"a digit": whole.replace(b"0.", b"1.", 1), "a mark": whole.replace(b":", b";", 1)}.get(damage, b"")
    )
    shown = cli("show", str(run))
    assert (shown.code, shown.err.count("\n")) == (2, 1)
    assert f"fedsim run --resume {run} writes it anew" in shown.err.replace("\n", " ")
    assert cli("run", "--resume", str(run)).code == 0
    assert [json.loads(line)["round"] for line in file.read_text().splitlines()] == [1, 2, 3]
    assert cli("show", str(run)).code == 0
