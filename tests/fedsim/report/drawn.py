"""What stands in a figure."""

from typing import Any

from matplotlib.figure import Figure

PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def tick_labels(axis: Any) -> list[str]:
    return [label.get_text() for label in axis.get_ticklabels()]


def legend_texts(figure: Figure) -> list[str]:
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]
