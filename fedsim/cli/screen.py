"""A terminal that prints the text of files without obeying control characters in it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.padding import Padding
from rich.segment import Segment
from rich.table import Table


def printable(text: str) -> str:
    """Return text with its control characters escaped."""
    return "".join(c if c.isprintable() or c == "\n" else c.encode("unicode_escape").decode() for c in text)


_PIPED_COLUMNS = 10_000


class Screen(Console):
    """A console that escapes control characters in everything it prints.

    If its output goes to a file or another program, lines are neither cut nor wrapped.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        if not self.is_terminal and "width" not in options:
            self.width = _PIPED_COLUMNS

    def print(self, *objects: Any, **options: Any) -> None:
        """Print as a console does. If the output is no terminal, remove blanks at the end of lines."""
        if self.is_terminal or options.get("end", "\n") != "\n":
            super().print(*objects, **options)
            return
        with self.capture() as captured:
            super().print(*objects, **options)
        self.file.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Yield the segments to print, with their control characters escaped. The console's own controls stay."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else segment._replace(text=printable(segment.text))


_LEAST_WORDS = 30  # characters that the last column needs to be readable


def print_rows(screen: Screen, headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table whose last column wraps, or one row after another if the table is too wide.

    If the output goes to a file, each row is one line of any length, for grep.
    """
    widths = [
        max(map(len, (heading, *column))) for heading, column in zip(headings, zip(*rows, strict=True), strict=True)
    ]
    if not screen.is_terminal:
        for row in rows:
            cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
            screen.print("  ".join([*cells, row[-1]]).rstrip(), soft_wrap=True)
        return
    if screen.width - sum(widths[:-1]) - 2 * len(widths) >= _LEAST_WORDS:
        table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
        for heading in headings[:-1]:
            table.add_column(heading, no_wrap=True)
        table.add_column(headings[-1], overflow="fold")
        for row in rows:
            table.add_row(*row)
        screen.print(table)
        return
    for row in rows:
        screen.print(row[0], style="bold", soft_wrap=False)
        for heading, cell in zip(headings[1:], row[1:], strict=True):
            if cell:
                screen.print(Padding(f"{heading}: {cell}", (0, 0, 0, 2)), soft_wrap=False)
