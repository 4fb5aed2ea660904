"""A part that a method, or a run's privacy, adds to a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from fedsim.report.figures import Plot


@dataclass(frozen=True)
class Section:
    """A part that a method adds to the report, between the plots and the configuration.

    Parameters
    ----------
    title
        Its heading.
    text
        A paragraph; escaped, unless it is `markupsafe.Markup`.
    rows
        A table whose first row is its head; no table when empty. A row of one cell is the heading of those below it.
    plots
        Figures, shown below the table.
    folded
        Whether the table is hidden until a reader opens it.
    compact
        Whether its columns are narrow, so that all of them are seen on a telephone.
    hints
        What heads of columns mean, in a sentence: shown where one points at them.
    """

    title: str
    text: str | Markup = ""
    rows: Sequence[Sequence[str]] = ()
    plots: Sequence[Plot] = ()
    folded: bool = False
    compact: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)
