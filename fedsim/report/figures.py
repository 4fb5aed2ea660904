"""Common parts of all figures of a report: style, file formats and legends."""

import contextlib
import io
import re
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from typing import Any, Final

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

# The colours of Okabe and Ito, which colour-blind readers can distinguish; without yellow, which is too faint on white.
COLORS: Final = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#4D4D4D")
GROUP_COLORS: Final = {"many": "#0072B2", "medium": "#E69F00", "few": "#D55E00"}
INK, MUTED, GREY, GRID = "#1F2933", "#52606D", "#9AA5B1", "#E1E6EB"

NARROW: Final = (5.6, 3.5)
"""Size in inches of a figure that shares the width of a page with another."""

_DPI: Final = 180
_MOST_TICKS: Final = 30
_NAME_LENGTH: Final = 16
_LABEL_LENGTH: Final = 40


@dataclass(frozen=True, eq=False)
class Plot:
    """A figure with its name and title.

    Parameters
    ----------
    name
        The stem of its file, such as `accuracy`.
    title
        What it shows, in a few words.
    figure
        The matplotlib figure, without a title.
    """

    name: str
    title: str
    figure: Figure

    @cached_property
    def png(self) -> bytes:
        """The figure as PNG, drawn once for both the file and the page."""
        return png(self.figure)

    def _repr_png_(self) -> bytes:
        """Return the figure for a notebook."""
        return self.png

    @cached_property
    def svg(self) -> str:
        """The figure as inline SVG for a page, with the page's light and dark colours."""
        with _layout_kept(self.figure) if "png" in vars(self) else contextlib.nullcontext():
            return inline_svg(self.figure, self.name, self.title)

    @property
    def wide(self) -> bool:
        """Whether it needs the whole width of a page."""
        return bool(self.figure.get_figwidth() > 1.2 * NARROW[0])


@contextlib.contextmanager
def _layout_kept(figure: Figure) -> Iterator[None]:
    """Keep the layout of the last drawing inside this block, because computing it takes half of the drawing time."""
    engine = figure.get_layout_engine()
    figure.set_layout_engine("none")
    try:
        yield
    finally:
        figure.set_layout_engine(engine)


def png(figure: Figure) -> bytes:
    """Return the figure as PNG, with the same bytes each time."""
    buffer = io.BytesIO()
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # A run's name may use a script that the font lacks. The boxes in the legend are no reason to warn or stop.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format="png", dpi=_DPI, metadata={"Software": None})
    return buffer.getvalue()


def drawn_as(figure: Figure, form: str, name: str) -> bytes:
    """Return the figure as "svg" or "pdf", with the same bytes each time; text remains text."""
    buffer = io.BytesIO()
    dated = {"svg": {"Date": None, "Creator": None}, "pdf": {"CreationDate": None, "Creator": None, "Producer": None}}
    told: dict[str, Any] = {"svg.fonttype": "none", "svg.hashsalt": name, "pdf.fonttype": 42}
    with warnings.catch_warnings(), matplotlib.rc_context(told):
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(buffer, format=form, transparent=True, metadata=dated[form])
    return buffer.getvalue()


_THEME: Final = {INK: "ink", MUTED: "muted", GREY: "grey", GRID: "line"}
"""Colours that are replaced by the page's own."""


def inline_svg(figure: Figure, name: str, title: str) -> str:
    """Return the figure as an element of an HTML page, whose style sheet sets the colours."""
    text = drawn_as(figure, "svg", name).decode()
    text = text[text.index("<svg") :]
    for color, variable in _THEME.items():
        text = text.replace(color.lower(), f"var(--{variable})")
    head, rest = text.split(">", 1)
    (box,) = re.findall(r'viewBox="([^"]+)"', head)
    width = round(figure.get_figwidth() * 100)
    rest = re.sub(r"<metadata>.*?</metadata>|<style [^>]*>.*?</style>", "", rest, flags=re.DOTALL)
    return f'<svg viewBox="{box}" role="img" aria-label="{escape(title)}" style="max-width: {width}px">{rest}'


def new_figure(size: tuple[float, float]) -> tuple[Figure, Axes]:
    """Return a figure of `size` inches with one axes object in the common style."""
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    tidy(axes)
    return figure, axes


def tidy(axes: Axes, grid: bool = True) -> None:
    """Apply the common style to the axes: few lines, muted labels, and optionally a faint grid."""
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)
    axes.spines["bottom"].set_color(GREY)
    axes.tick_params(which="both", colors=MUTED, labelsize=9, length=0)
    axes.xaxis.label.set(color=MUTED, fontsize=10)
    axes.yaxis.label.set(color=MUTED, fontsize=10)
    axes.set_axisbelow(True)
    if grid:
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)


def width_of(columns: int) -> float:
    """Return the width in inches of a figure with this number of columns."""
    return float(np.clip(2.0 + 0.32 * columns, 5.6, 10.8))


def id_ticks(axis: Any, count: int) -> None:
    """Label each id; if there are many, label each second, fifth, tenth, ..."""
    step = next(s * 10**e for e in range(12) for s in (1, 2, 5) if count <= _MOST_TICKS * s * 10**e)
    ids = np.arange(0, count, step)
    axis.set_ticks(ids, labels=[str(i) for i in ids])


def name_ticks(axis: Any, count: int, names: Sequence[str] | None) -> None:
    """Label the ids with their shortened names, if there are names and enough room; otherwise with their numbers."""
    if names is None or not 0 < count <= _MOST_TICKS:
        return id_ticks(axis, count)
    short = [name if len(name) <= _NAME_LENGTH else f"{name[: _NAME_LENGTH - 1]}…" for name in names]
    axis.set_ticks(np.arange(count), labels=short)
    for label in axis.get_ticklabels():
        label.set_parse_math(False)


def add_legend(figure: Figure, handles: Sequence[Any], labels: Sequence[str]) -> None:
    """Put a legend above the axes. Labels are shown literally, because a name may begin with _ or contain a $."""
    short = [label if len(label) <= _LABEL_LENGTH else f"{label[:24]}…{label[-15:]}" for label in labels]
    columns = max(1, min(len(short), int(figure.get_figwidth() * 11 / (max(map(len, short)) + 6))))
    placeholders = [f"label {index}" for index in range(len(short))]
    legend = figure.legend(
        handles, placeholders, loc="outside upper left", ncols=columns, frameon=False, fontsize=9, handlelength=1.6
    )
    for text, label in zip(legend.get_texts(), short, strict=True):
        text.set(parse_math=False, text=label, color=INK)


def thousands(value: float, _position: int | None = None) -> str:
    """Return a tick's label with thousands separators."""
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"
