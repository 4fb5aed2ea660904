import csv
import io

import pytest
from rich.console import Console

from fedsim.errors import FedsimError
from fedsim.report.groups import grouped
from fedsim.report.table import columns_of, render_table, to_csv, to_latex, to_markdown
from fedsim.runs.folder import RunFolder


def test_markdown(six_runs: list[RunFolder]) -> None:
    groups = grouped(six_runs)
    lines = to_markdown(groups, columns_of(groups, target=0.8)).splitlines()
    what = "Global accuracy 0.8"
    assert lines[0] == f"|  | n | Global accuracy | Rounds to {what} | MB to {what} | Seconds to {what} |"
    # Four rounds of 0.4 MB down, and 0.2 or 0.3 up, at the two seeds that get there.
    reached = "4 ± 0 (2 of 3) | 2.6 ± 0.2828 (2 of 3) | 8 ± 0 (2 of 3)"
    assert lines[2] == f"| fed_a | 3 | 80.00 ± 10.00 | {reached} |"
    assert lines[3] == f"| fed_b | 3 | **85.50 ± 9.50** | {reached} |"
    assert lines[-1].startswith("Mean ± standard deviation over 3 seeds; bold:")


def test_on_a_terminal_how_to_read_it_is_as_wide_as_the_terminal(six_runs: list[RunFolder]) -> None:
    screen = Console(file=io.StringIO(), width=200)
    screen.print(render_table(grouped(six_runs)))
    *_, told = screen.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert told.startswith("mean ± standard deviation over 3 seeds; bold:")
    assert told.endswith("(level 0.05)")


def test_latex_is_escaped(six_runs: list[RunFolder]) -> None:
    groups = grouped(six_runs)
    lines = to_latex(groups, columns_of(groups)).splitlines()
    assert lines[0] == r"\begin{tabular}{lrr}"
    assert lines[2] == r" & $n$ & Global accuracy (\%) \\"
    assert lines[4] == r"fed\_a & 3 & $80.00 \pm 10.00$ \\"
    assert lines[5] == r"fed\_b & 3 & $\mathbf{85.50 \pm 9.50}$ \\"


def test_csv_has_numbers_as_they_are(six_runs: list[RunFolder]) -> None:
    groups = grouped(six_runs)
    first, second = csv.DictReader(io.StringIO(to_csv(groups, columns_of(groups))))
    assert float(first["Global accuracy mean"]) == pytest.approx(0.8)
    assert float(second["Global accuracy sd"]) == pytest.approx(0.095)
    assert (first["Global accuracy best"], second["Global accuracy best"]) == ("0", "1")


def test_metrics_that_nobody_measured_are_refused(six_runs: list[RunFolder]) -> None:
    with pytest.raises(FedsimError, match=r"--metric global/acc: no run has measured it; did you mean"):
        columns_of(grouped(six_runs), ["global/acc"])
