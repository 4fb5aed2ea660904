import os
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from markupsafe import Markup

from fedsim.errors import FedsimError
from fedsim.report.curves import group_curves
from fedsim.report.glossary import meaning
from fedsim.report.groups import grouped
from fedsim.report.html import Section, render_report, write_report
from fedsim.report.plots import Plot, partition_plot
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun

VOID = {"meta", "img", "br", "link", "hr", "input"}


class Page(HTMLParser):
    """The page's tags and attributes, its tables as rows of (text, class) and its text; checks that tags balance."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.rows: list[list[tuple[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append(("", dict(attrs).get("class") or ""))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" in self._open:
            return
        self.text += data
        if "td" in self._open or ("th" in self._open and self.rows):
            text, kind = self.rows[-1][-1]
            self.rows[-1][-1] = (text + data, kind)

    def row(self, label: str, occurrence: int = 0) -> list[str]:
        return [r for r in self.cells() if r and r[0] == label][occurrence][1:]

    def cells(self) -> list[list[str]]:
        return [[text.strip() for text, _ in row] for row in self.rows]

    def images(self) -> list[str]:
        """Return what the page's figures are called."""
        assert "img" not in {tag for tag, _ in self.tags}
        return [attrs["aria-label"] or "" for tag, attrs in self.tags if tag == "svg"]


def page(*runs: Path, sections: tuple[Section, ...] = ()) -> Page:
    return Page(render_report([RunFolder.open(run) for run in runs], sections))


def test_one_run(make_run: MakeRun) -> None:
    engine = {"name": "inprocess", "device": "cpu", "why": {"cohort": "vectorized (quicker)"}}
    found = page(make_run("first", summary={"engine": engine}))
    assert ("h1", {}) in found.tags
    assert "first" in found.text
    assert found.row("Status") == ["finished"]
    assert found.row("Rounds") == ["4 of 4"]
    assert found.row("Wall time") == ["2 min 05 s"]
    assert found.row("Engine") == ["inprocess on cpu"]
    assert found.row("Choice of cohort") == ["vectorized (quicker)"]
    assert found.row("Client failures") == ["0"]
    assert found.row("Model SHA-256") == ["ab" * 32]
    assert found.row("Accuracy", 0) == ["87.50 %"]
    assert found.row("Accuracy", 1) == ["75.00 %"]
    assert found.row("global_psi: Accuracy") == ["90.00 %"]
    assert found.row("strategy.mu") == ["0.01"]
    assert found.row("versions.torch") == ["2.11"]
    assert [row[0] for row in found.cells() if len(row) == 1] == ["Global", "Clients", "Other heads", "Training"]
    assert "best" not in {kind for row in found.rows for _, kind in row}


def test_all_figures_are_inlined_and_nothing_is_loaded(make_run: MakeRun) -> None:
    found = page(make_run())
    assert found.images() == [
        "Accuracy",
        "Loss",
        "Final accuracy and training samples per class",
        "Labels of the 3 clients",
    ]
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in found.tags}
    names = {name for _, attrs in found.tags for name in attrs}
    assert not {name for name in names if name.startswith("on")} | names & {"href", "src", "srcset"}
    links = {attrs["xlink:href"] or "" for _, attrs in found.tags if "xlink:href" in attrs}
    assert all(link.startswith(("#", "data:image/png;base64,")) for link in links)


def test_names_and_values_are_escaped(make_run: MakeRun) -> None:
    evil = '<script>alert("1")</script>'
    rows = [{"round": 1, "metrics": {f"{evil}/accuracy": 0.5}}]
    summary = {"name": evil, "status": "failed", "reason": evil, "engine": evil}
    config = {"strategy": {"name": evil, evil: evil}, "x": "'\"><img src=x onerror=y>"}
    runs = [make_run(x, rows=rows, summary=summary, config=config, environment={evil: evil}) for x in "ab"]
    section = Section(evil, evil, [[evil, evil], [evil, evil]])
    for found in (page(runs[0], sections=(section,)), page(*runs, sections=(section,))):
        assert "script" not in {tag for tag, _ in found.tags}
        assert found.text.count(evil) >= 8
        found.images()


def test_the_best_run_of_a_row_is_marked(make_run: MakeRun) -> None:
    other = {"global/accuracy": 0.5, "global/loss": 0.25, "train/loss": 0.1, "clients/accuracy": 0.75}
    found = page(make_run("a"), make_run("b", summary={"metrics": other}))
    marked = [(row[0][0], [kind == "best" for _, kind in row[1:]]) for row in found.rows if len(row) == 3]
    assert ("Accuracy", [True, False]) in marked
    assert ("Loss", [False, True]) in marked
    assert [cells for label, cells in marked if any(cells)] == [[True, False], [False, True]]
    assert found.row("Accuracy", 0) == ["87.50 % ★", "50.00 %"]
    assert found.row("global_psi: Accuracy") == ["90.00 %", "–"]
    assert ["", "a", "b"] in found.cells()
    assert "2 runs compared" in found.text


def test_differences_of_the_configuration_come_first(make_run: MakeRun) -> None:
    found = page(make_run("a"), make_run("b", config={"seed": 8, "extra": None}))
    cells = found.cells()
    assert ["seed", "7", "8"] in cells
    assert ["extra", "–", "null"] in cells
    assert ["strategy.name", "fedloge"] in cells
    assert cells.index(["seed", "7", "8"]) < cells.index(["strategy.name", "fedloge"])
    assert "Where the runs differ" in found.text


def test_a_run_that_did_not_finish_says_why_and_how_to_go_on(make_run: MakeRun) -> None:
    killed = make_run("with space", rows=None, summary=None, counts=None, environment=None)
    stopped = make_run("b", summary={"status": "stopped", "reason": "only 2 of 5 replies", "rounds_done": 3})
    found = page(killed)
    assert "with space is unfinished after round 0 of 4" in found.text
    assert f"fedsim run --resume '{killed}'" in found.text
    assert "Nothing has been measured yet." in found.text
    assert found.images() == []
    both = page(killed, stopped).text
    assert "b is stopped after round 3 of 4: only 2 of 5 replies." in both
    assert f"fedsim run --resume {stopped}" in both


def test_sections_of_methods(make_run: MakeRun) -> None:
    plot = Plot("forgetting", "Forgetting <curve>", partition_plot(np.ones((2, 2), dtype=np.int64)))
    rows = [["Set", "Before", "After"], ["forget", "98 %", "10 %"]]
    section = Section("Unlearning", Markup("It <em>forgot</em>."), rows, [plot])
    found = page(make_run(), sections=(section, Section("Empty")))
    assert ["Set", "Before", "After"] in found.cells()
    assert found.row("forget") == ["98 %", "10 %"]
    assert ("em", {}) in found.tags
    assert len(found.images()) == 5
    assert "Forgetting <curve>" in found.images()
    assert found.text.index("Unlearning") < found.text.index("Configuration")


def test_write_report_replaces_the_old_page_whole(make_run: MakeRun) -> None:
    run = RunFolder.open(make_run())
    out = run.path / "report.html"
    out.write_text("old")
    assert write_report([run], out) == out
    assert Page(out.read_text(encoding="utf-8")).row("Status") == ["finished"]
    assert not [name for name in os.listdir(run.path) if name.endswith(".tmp")]
    with pytest.raises(FedsimError, match="cannot be written"):
        write_report([run], run.path)


def test_a_report_is_the_same_bytes_each_time(make_run: MakeRun) -> None:
    runs = [RunFolder.open(make_run("a")), RunFolder.open(make_run("b"))]
    assert render_report(runs) == render_report(runs)


def test_no_runs_no_report() -> None:
    with pytest.raises(ValueError, match="at least one run"):
        render_report([])


def test_seeds_are_grouped_and_the_best_mean_is_marked(make_run: MakeRun) -> None:
    runs = []
    for method, accuracies in (("fed_a", [0.5, 0.6, 0.7]), ("fed_b", [0.7, 0.8, 0.55])):
        for seed, accuracy in enumerate(accuracies):
            rows = [{"round": r, "metrics": {"global/accuracy": accuracy * r / 4}} for r in (2, 4)]
            config = {"seed": seed, "strategy": {"name": method}}
            summary = {"metrics": rows[-1]["metrics"], "wall_time_s": 20.0}
            runs.append(make_run(f"{method}-{seed}", config=config, rows=rows, summary=summary))
    found = page(*runs)
    assert "6 runs in 2 groups" in found.text
    # t = 4.303 for two degrees of freedom: 0.1 * 4.303 / sqrt(3), and 0.12583 * 4.303 / sqrt(3)
    assert found.row("Accuracy") == ["60.00 % ± 24.84", "68.33 % ± 31.26 ★"]
    assert found.row("Seed") == ["0, 1, 2", "0, 1, 2"]
    assert found.row("Wall time") == ["1 min 00 s", "1 min 00 s"]
    assert len(found.images()) == 1
    (plot,) = group_curves(grouped([RunFolder.open(run) for run in runs]))
    lines, bands = plot.figure.axes[0].lines, plot.figure.axes[0].collections
    assert [line.get_ydata().tolist()[-1] for line in lines] == pytest.approx([0.6, 0.68333], abs=1e-4)
    top = bands[0].get_paths()[0].vertices
    assert max(y for x, y in top if x == 4) == pytest.approx(0.6 + 0.2484, abs=1e-4)
    assert min(y for x, y in top if x == 2) == pytest.approx(0.3 - 0.1242, abs=1e-4)


def test_the_first_things_are_first(make_run: MakeRun) -> None:
    run = make_run(config={"unset": None})
    found = page(run)
    places = [
        found.text.index(part)
        for part in ("87.50\N{NO-BREAK SPACE}%", "All final metrics", "What was run", "Configuration")
    ]
    assert places == sorted(places)
    assert "2\N{NO-BREAK SPACE}min\N{NO-BREAK SPACE}05\N{NO-BREAK SPACE}s" in found.text  # a card's value is one line
    assert "Privacy" not in found.text
    assert "unset" not in found.text


def test_every_metric_says_what_it_is_where_one_points_at_it(make_run: MakeRun) -> None:
    run = make_run()
    section = Section("Mine", rows=[["Model", "Gap"], ["a", "1"]], hints={"Gap": 'how "far" it is'})
    found = page(run, sections=(section,))
    hints = [attrs["title"] or "" for tag, attrs in found.tags if tag in ("th", "dt") and "title" in attrs]
    assert 'how "far" it is' in hints
    said = [attrs for tag, attrs in found.tags if tag in ("th", "dt") and "title" in attrs]
    assert all(attrs["tabindex"] == "0" for attrs in said)  # a tap reaches it, where nothing can point
    for name in RunFolder.open(run).final_metrics:
        assert f"{meaning(name).sentence} ({name})" in hints
    shown = [attrs for tag, attrs in found.tags if tag == "dt"]
    assert [bool(attrs.get("title")) for attrs in shown] == [
        label not in ("Rounds", "Wall time") for label in ("accuracy",) * (len(shown) - 2) + ("Rounds", "Wall time")
    ]
