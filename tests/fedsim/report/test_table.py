import csv
import io

import pytest
from rich.console import Console

from fedsim.errors import FedsimError
from fedsim.report.groups import grouped
from fedsim.report.table import columns_of, render_table, to_csv, to_latex, to_markdown
from fedsim.runs.folder import RunFolder
from tests.fedsim.conftest import MakeRun


@pytest.fixture
def runs(make_run: MakeRun) -> list[RunFolder]:
    """Three seeds of a method, two of which reach 80 %, and three of another that is better on all of them."""
    made = []
    for name, accuracies in (("fed_a", [0.70, 0.80, 0.90]), ("fed_b", [0.76, 0.855, 0.95])):
        for seed, accuracy in enumerate(accuracies):
            rows = [
                {"round": r, "time_s": 2.0 * r, "bytes_down": 400_000, "bytes_up": 100_000 * (1 + seed),
                 "metrics": {"global/accuracy": accuracy * r / 4} if r % 2 == 0 else {}}
                for r in (1, 2, 3, 4)
            ]  # fmt: skip
            config = {"seed": seed, "strategy": {"name": name}}
            path = make_run(f"{name}-{seed}", config=config, rows=rows, summary={"metrics": rows[-1]["metrics"]})
            made.append(RunFolder.open(path))
    return made


def test_markdown(runs: list[RunFolder]) -> None:
    groups = grouped(runs)
    lines = to_markdown(groups, columns_of(groups, target=0.8)).splitlines()
    what = "Global accuracy 0.8"
    assert lines[0] == f"|  | n | Global accuracy | Rounds to {what} | MB to {what} | Seconds to {what} |"
    # Four rounds of 0.4 MB down, and 0.2 or 0.3 up, at the two seeds that get there.
    reached = "4 ± 0 (2 of 3) | 2.6 ± 0.2828 (2 of 3) | 8 ± 0 (2 of 3)"
    assert lines[2] == f"| fed_a | 3 | 80.00 ± 10.00 | {reached} |"
    assert lines[3] == f"| fed_b | 3 | **85.50 ± 9.50** | {reached} |"
    assert lines[-1].startswith("Mean ± standard deviation over 3 seeds; bold:")


def test_on_a_terminal_how_to_read_it_is_as_wide_as_the_terminal(runs: list[RunFolder]) -> None:
    screen = Console(file=io.StringIO(), width=200)
    screen.print(render_table(grouped(runs)))
    *_, told = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert told.startswith("mean ± standard deviation over 3 seeds; bold:")
    assert told.endswith("(level 0.05)")


def test_latex_is_escaped(runs: list[RunFolder]) -> None:
    groups = grouped(runs)
    lines = to_latex(groups, columns_of(groups)).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r" & $n$ & Global accuracy (\%) \\"
    assert lines[4] == r"fed\_a & 3 & $80.00 \pm 10.00$ \\"
    assert lines[5] == r"fed\_b & 3 & $\mathbf{85.50 \pm 9.50}$ \\"


def test_csv_has_numbers_as_they_are(runs: list[RunFolder]) -> None:
    groups = grouped(runs)
    first, second = csv.DictReader(io.StringIO(to_csv(groups, columns_of(groups))))
    assert float(first["Global accuracy mean"]) == pytest.approx(0.8)
    assert float(second["Global accuracy sd"]) == pytest.approx(0.095)
    assert (first["Global accuracy best"], second["Global accuracy best"]) == ("0", "1")


def test_metrics_that_nobody_measured_are_refused(runs: list[RunFolder]) -> None:
    with pytest.raises(FedsimError, match=r"--metric global/acc: no run has measured it; did you mean"):
        columns_of(grouped(runs), ["global/acc"])
