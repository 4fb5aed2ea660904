"""A section that a method, or a run's privacy, adds to a report."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from fedsim.report.figures import Plot


@dataclass(frozen=True)
class Section:
    """A section of the report, between the plots and the configuration.

    Parameters
    ----------
    title
        Heading of the section.
    text
        A paragraph; it is escaped unless it is `markupsafe.Markup`.
    rows
        A table; its first row is the head. A later row with one cell is a heading for the rows below it. Without rows,
        there is no table.
    plots
        Figures, shown below the table.
    folded
        Whether the table is hidden until a reader opens it.
    compact
        Whether its columns are narrow, so that all of them fit on a telephone.
    hints
        {head of a column: its meaning in one sentence}, shown when a reader points at the head.
    """

    title: str
    text: str | Markup = ""
    rows: Sequence[Sequence[str]] = ()
    plots: Sequence[Plot] = ()
    folded: bool = False
    compact: bool = False
    hints: Mapping[str, str] = field(default_factory=dict)
