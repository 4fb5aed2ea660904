import io
import re

import pytest
from rich.console import Console

from fedsim.config.resolve import resolve
from fedsim.runs.progress import Live, Progress, ProgressLines, QuietProgress, progress_for

CONFIG = resolve({"clients": 200, "cohort": 100, "rounds": 4, "data.name": "npz:/[bold].npz"})


def console(terminal: bool) -> Console:
    return Console(file=io.StringIO(), force_terminal=terminal, width=120, soft_wrap=True, color_system=None)


def play(progress: Progress, rounds: int = 4, done: int = 0) -> None:
    progress.begin(CONFIG, {"engine": "inprocess (as asked)"}, done)
    for server_round in range(done + 1, rounds + 1):
        for _ in range(100):
            progress.reply()
        evaluated = {"global/accuracy": server_round / 10} if server_round % 2 == 0 else {}
        progress.round_done(server_round, {"train/loss": 1.0, "train/clients_per_s": 50.0, **evaluated})
    progress.end()


def shown(target: Console) -> str:
    """Return what was printed, without the terminal's control sequences."""
    assert isinstance(target.file, io.StringIO)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", target.file.getvalue()).rstrip("\n")


def test_what_fits_where_the_output_goes() -> None:
    assert type(progress_for(console(True), quiet=True)) is QuietProgress
    assert type(progress_for(console(True), quiet=False)) is Live
    assert type(progress_for(console(False), quiet=False)) is ProgressLines


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    play(QuietProgress())
    assert capsys.readouterr() == ("", "")


def test_lines_tell_of_evaluated_rounds() -> None:
    out = console(False)
    play(ProgressLines(out))
    head, engine, *rounds = shown(out).splitlines()
    assert head == "fedavg on npz:/[bold].npz: 100 of 200 clients, 4 rounds, cnn, seed 0"
    assert engine == "  engine: inprocess (as asked)"
    assert rounds == [
        "round 2/4  acc 0.2000  loss 1.0000  50 clients/s  eta 0 s",
        "round 4/4  acc 0.4000  loss 1.0000  50 clients/s  eta 0 s",
    ]


def test_the_time_left_counts_only_the_rounds_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 0.0, 0.0, 6.0, 12.0])
    monkeypatch.setattr("fedsim.runs.progress.time.monotonic", lambda: next(clock))
    out = console(False)
    lines = ProgressLines(out)
    lines.begin(CONFIG, {}, 1)
    for server_round in (2, 3):
        lines.round_done(server_round, {"global/accuracy": 0.5})
    # Round 2 took 6 s and 2 are left; rounds 2 and 3 took 12 s and 1 is left.
    assert [line.split("eta ")[1] for line in shown(out).splitlines()[-2:]] == ["12 s", "6 s"]


def test_the_bar_ends_full_and_keeps_the_last_accuracy() -> None:
    out = console(True)
    play(Live(out), done=2)
    last = shown(out).splitlines()[-1]
    assert "4/4" in last
    assert "acc 0.4000  loss 1.0000  50 clients/s" in last


def test_the_bar_tells_how_far_a_long_round_is() -> None:
    out = console(True)
    bar = Live(out)
    bar.begin(CONFIG, {}, 0)
    for _ in range(51):
        bar.reply()
    bar.end()
    assert "0/4" in shown(out).splitlines()[-1]
    assert "50/100 clients" in shown(out).splitlines()[-1]


def test_an_end_without_a_beginning_is_no_error() -> None:
    """A run that fails while it begins ends the display as well."""
    out = console(True)
    Live(out).end()
    assert shown(out) == ""
