"""From the bytes of a table to its cells: compression, encoding, separator, header, and rows that do not fit.

Everything that is found out is noted in words, for the paragraph that a run prints.
"""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import io
import lzma
import re
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedsim.data.csv_config import CsvConfig
from fedsim.errors import FedsimError
from fedsim.reading import decoded, require_regular

Row = list[str]

_COMPRESSED: dict[bytes, Callable[[io.BytesIO], Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open
}  # fmt: skip
_MOST_RATIO = 200
"""Of a table to its compressed file; real ones are below 20."""
_SPARE_BYTES = 1 << 24
_FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or a zip archive; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"PAR1": "a Parquet file; save it as CSV",
    b"%PDF": "a PDF; save the table in it as CSV",
}
_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", ",": "commas"}
"""Those first that rarely stand inside a value: decimal commas are many."""
_SAMPLE_ROWS = 1000
_CONSISTENT = 0.9  # share of rows with one number of values
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Cells:
    """The text of a table, white space around the values removed."""

    path: Path
    names: list[str]
    """Of the columns, all different; column_K where the header is blank."""
    rows: list[Row]
    unnamed: list[str]
    """Those of the columns that the header leaves blank."""
    separator: str
    notes: list[str]
    """What was found out, in words."""

    def error(self, what: str) -> FedsimError:
        """Return an error that names the file."""
        return FedsimError(f"{self.path}: {what}")


def read_cells(path: Path, config: CsvConfig, least: int = 2) -> Cells:
    """Return the cells of a table of text with `least` rows at least.

    Raises
    ------
    FedsimError
        With the path, if there is no such table in it: one line that tells what is wrong and where.
    """
    try:
        require_regular(path)
        text, notes = _decode(path, _decompress(path, path.read_bytes()), config.encoding)
        first = re.match(r'"?sep=(.)"?\r?\n', text)  # Excel's own line
        if first:
            text = text[first.end() :]
        separator = config.separator or (first[1] if first else _sniff_separator(text))
        rows = _parse(text, separator)
    except FileNotFoundError:
        raise FedsimError(f"{path}: no such file; give the path of a table with a header as csv:PATH") from None
    except (OSError, UnicodeDecodeError, LookupError, EOFError, zlib.error, lzma.LZMAError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise FedsimError(f"{path}: cannot be read as a table ({reason}); give a .csv or .csv.gz file") from None
    rows, outside = _inner(rows)
    if outside:
        notes.append(f"{len(outside)} lines around the table left out ({', '.join(map(repr, outside[:2]))})")
    names, rows, unnamed = _header(path, rows or [[]], config)
    notes += unnamed
    if separator != ",":
        notes.append(f"separated by {_SEPARATORS.get(separator, repr(separator))}")
    rows = _rectangular(path, names, rows)
    if len(rows) < least:
        raise FedsimError(f"{path}: needs a header and at least {'two rows' if least > 1 else 'one row'} below it")
    blank = [place for place, name in enumerate(names) if not name]
    for place in blank:
        names[place] = f"column_{place + 1}"
    if repeated := [name for name, times in Counter(names).items() if times > 1]:
        raise FedsimError(f"{path}: two columns are called {repeated[0]!r}; rename one")
    return Cells(path, names, rows, [names[place] for place in blank], separator, notes)


def _decompress(path: Path, content: bytes) -> bytes:
    for mark, opened in _COMPRESSED.items():
        if content.startswith(mark):
            try:
                most = _MOST_RATIO * len(content) + _SPARE_BYTES
                with opened(io.BytesIO(content)) as file:
                    content = file.read(most + 1)
                if len(content) > most:
                    raise OSError(errno.EFBIG, f"it unpacks to more than {_MOST_RATIO} times its size")
            except ValueError as error:  # bz2's, of one cut short
                raise OSError(str(error)) from None
    for mark, what in _FOREIGN.items():
        if content.startswith(mark):
            raise FedsimError(f"{path}: is {what}")
    return content


def _decode(path: Path, content: bytes, given: str | None) -> tuple[str, list[str]]:
    """Return the text and what is to be said about its encoding."""
    if given is not None:
        return content.decode(given).removeprefix("\ufeff"), [f"encoded in {given}"]
    try:
        text, encoding = decoded(content)
    except ValueError as error:
        raise FedsimError(
            f"{path}: cannot be read as a table ({error}); name its encoding with --set data.csv.encoding=NAME"
        ) from None
    return text, [encoding] if encoding else []


def _parse(text: str, separator: str, most: int | None = None) -> list[Row]:
    """Return the rows that are not blank, each as long as it is."""
    if separator == " ":
        text, separator = re.sub(r"[ \t]+", " ", re.sub(r"(?m)^[ \t]+|[ \t]+$", "", text)), " "
    rows: list[Row] = []
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    for row in reader:
        if any(cells := [value.strip() for value in row]):
            rows.append(cells)
            if len(rows) == most:
                break
    return rows


def _sniff_separator(text: str) -> str:
    """Return the separator that cuts most rows into one number of values, of several the one rare in values."""
    shares = {}
    for separator in (*_SEPARATORS, " "):
        try:
            lengths = Counter(map(len, _parse(text, separator, _SAMPLE_ROWS)))
        except csv.Error:
            continue
        (length, times), *_ = [*sorted(lengths.items(), key=lambda item: -item[1]), (0, 0)]
        if length > (2 if separator == " " else 1):  # two words in a row are no table
            shares[separator] = times / lengths.total()
    consistent = [separator for separator, share in shares.items() if share >= _CONSISTENT]
    return consistent[0] if consistent else max(shares, key=lambda separator: shares[separator], default=",")


def _inner(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows without titles above and notes below, lines of one value beside a table of several; and these."""
    usual = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    start, stop = 0, len(rows)

    def outside(row: Row) -> bool:
        return sum(map(bool, row)) == 1 and (len(row) == 1 < usual or (usual > 2 and bool(row[0])))

    while start < stop and outside(rows[start]):
        start += 1
    while stop > start and outside(rows[stop - 1]):
        stop -= 1
    left_out = [" ".join(filter(None, row)) for row in rows[:start] + rows[stop:]]
    return rows[start:stop], left_out


def _header(path: Path, rows: list[Row], config: CsvConfig) -> tuple[list[str], list[Row], list[str]]:
    """Return the names of the columns, the rows below, and what is to be said about them."""
    first, below = rows[0], rows[1:]
    while len(first) > 1 and not first[-1] and not any("".join(row[len(first) - 1 :]) for row in below):
        first = first[:-1]  # every line ends in a separator
        below = [row[: len(first)] for row in below]
    if below and {len(row) for row in below} == {len(first) + 1}:
        if all(not row[-1] for row in below):
            below = [row[:-1] for row in below]  # the lines of values alone do
        elif not _is_number(first):
            first = ["", *first]  # R's row names
    if _is_header(path, first, below, config):
        return first, below, []
    names = [f"column_{number}" for number in range(1, len(first) + 1)]
    return names, [first, *below], [f"no header, so the columns are called column_1 to column_{len(first)}"]


def _is_number(cells: Row) -> bool:
    return any(_NUMBER.fullmatch(cell.replace(",", ".")) for cell in cells)


def _is_header(path: Path, first: Row, below: list[Row], config: CsvConfig) -> bool:
    """Tell whether the first row names columns: names are no numbers, or whole ones that count up."""
    if config.header is not None:
        return config.header
    asked = {config.target, config.client, *config.drop}
    numbers = [cell for cell in first if _NUMBER.fullmatch(cell.replace(",", "."))]
    if not numbers or (asked - {None}) & set(first):
        return True
    counts = [int(cell) for cell in numbers if cell.isascii() and cell.isdigit()]
    rising = len(counts) == len(numbers) and all(a < b for a, b in pairwise(counts))
    words = [place for place, cell in enumerate(first) if cell and cell not in numbers]
    known = any(first[place] in {row[place] for row in below if len(row) > place} for place in words)
    if not rising or known:
        return False
    consecutive = len(counts) > 2 and counts[-2] - counts[0] == len(counts) - 2  # the last one may be the target
    if counts[0] == 0 or words or consecutive:
        return True
    raise FedsimError(
        f"{path}: its first row is all numbers ({', '.join(first[:4])}); tell whether they are names with "
        "--set data.csv.header=true or =false"
    )


def _rectangular(path: Path, names: list[str], rows: list[Row]) -> list[Row]:
    for number, row in enumerate(rows, 1):
        if len(row) > len(names) and not any(row[len(names) :]):
            rows[number - 1] = row[: len(names)]
        elif len(row) != len(names):
            raise FedsimError(f"{path}: row {number} has {len(row)} values, the header {len(names)}; mend it")
    return rows
