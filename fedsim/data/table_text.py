"""Read the cells of a table from bytes: compression, encoding, separator, header, and rows that do not fit.

Everything that is detected is noted in words, for the paragraph that a run prints.
"""

from __future__ import annotations

import bz2
import csv
import errno
import gzip
import hashlib
import io
import lzma
import re
import unicodedata
import zlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

from fedsim.data.csv_config import CsvConfig
from fedsim.data.table_columns import BLANK
from fedsim.errors import FedsimError
from fedsim.reading import decoded, require_regular

Row = list[str]

_COMPRESSED: dict[bytes, Callable[[io.BytesIO], Any]] = {
    b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\x00": lzma.open
}  # fmt: skip
_MOST_RATIO = 200
"""Largest ratio of a table's uncompressed size to the size of its compressed file; real ratios are below 20."""
_SPARE_BYTES = 1 << 24
_FOREIGN = {
    b"PK\x03\x04": "an Excel workbook or a zip archive; save it as CSV",
    b"\xd0\xcf\x11\xe0": "an old Excel workbook; save it as CSV",
    b"PAR1": "a Parquet file; save it as CSV",
    b"%PDF": "a PDF; save the table in it as CSV",
    b"<!DOCTYPE": "a page of the web; save the table in it as CSV",
    b"<html": "a page of the web; save the table in it as CSV",
    b"{": "JSON; save it as CSV",
    b"[{": "JSON; save it as CSV",
    b"@relation": "an ARFF file of Weka's; save it as CSV",
}
_EDGES = "".join(filter(str.isspace, map(chr, range(0x3001)))) + "\ufeff\u200b\u200e\u200f\u2060"
"""White space and invisible marks; they are removed at both ends of a value."""
_SEPARATORS = {"\t": "tabs", ";": "semicolons", "|": "vertical bars", ",": "commas"}
"""The separators that rarely occur inside values come first; decimal commas are frequent."""
_SAMPLE_ROWS = 1000
_LONGEST = 200
_CONSISTENT = 0.9  # share of rows with the same number of values
_RARE = 0.25
"""A row that makes up more than this share of the rows is no repeated header."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


@dataclass(frozen=True)
class Cells:
    """The text of a table, without white space around values."""

    path: Path
    names: list[str]
    """Names of the columns, all different; column_K if the header is blank."""
    rows: list[Row]
    unnamed: list[str]
    """Names of the columns with a blank header."""
    separator: str
    notes: list[str]
    """Sentences about what was detected."""

    def error(self, what: str) -> FedsimError:
        """Return an error whose message begins with the file's path."""
        return FedsimError(f"{self.path}: {what}")


def read_cells(path: Path, config: CsvConfig, least: int = 2) -> Cells:
    """Return the cells of a text table with at least `least` rows.

    Raises
    ------
    FedsimError
        With the path, if the file holds no such table: one line that says what is wrong and where.
    """
    try:
        require_regular(path)
        text, notes = _decode(path, _decompress(path, path.read_bytes()), config.encoding)
        text = unicodedata.normalize("NFC", text)  # the same word may have two encodings in Unicode
        first = re.match(r'"?sep=(.)"?\r?\n', text)  # a line that Excel writes
        if first:
            text = text[first.end() :]
        separator = config.separator or (first[1] if first else _sniff_separator(text))
        rows = _parse(text, separator)
    except FileNotFoundError:
        raise FedsimError(f"{path}: no such file; give the path of a table with a header as csv:PATH") from None
    except csv.Error as error:
        raise FedsimError(f"{path}: {error}") from None
    except (OSError, UnicodeDecodeError, LookupError, EOFError, zlib.error, lzma.LZMAError) as error:
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
            except ValueError as error:  # bz2 raises it for a truncated file
                raise OSError(str(error)) from None
    for mark, what in _FOREIGN.items():
        if content.startswith(mark):
            raise FedsimError(f"{path}: is {what}")
    return content


def _decode(path: Path, content: bytes, given: str | None) -> tuple[str, list[str]]:
    """Return the text, and notes about its encoding."""
    if given is not None:
        return content.decode(given).lstrip("\ufeff"), [f"encoded in {given}"]
    try:
        text, encoding = decoded(content)
    except UnicodeDecodeError:
        raise
    except ValueError as error:
        raise FedsimError(
            f"{path}: cannot be read as a table ({error}); name its encoding with --set data.csv.encoding=NAME"
        ) from None
    return text, [encoding] if encoding else []


def _parse(text: str, separator: str, most: int | None = None) -> list[Row]:
    """Return the rows that are not blank, with their own lengths; at most `most` rows.

    Raises
    ------
    csv.Error
        With the line, if quotation marks are wrong.
    """
    if separator == " ":
        text, separator = re.sub(r"[ \t]+", " ", re.sub(r"(?m)^[ \t]+|[ \t]+$", "", text)), " "
    rows: list[Row] = []
    csv.field_size_limit(max(csv.field_size_limit(), len(text)))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True)
    begun = 0
    try:
        for row in reader:
            begun = reader.line_num
            if any(cells := [value.strip(_EDGES) for value in row]):
                rows.append([value if len(value) <= _LONGEST else _shortened(value) for value in cells])
                if len(rows) == most:
                    break
    except csv.Error as error:
        if "unexpected end" in str(error):
            raise csv.Error(f"a quotation mark in line {begun + 1} is never closed; close it, or double it") from None
        raise csv.Error(
            f"something follows a quotation mark that closes a value in line {reader.line_num}; double the marks "
            "inside of a value"
        ) from None
    return rows


def _shortened(value: str) -> str:
    """Return the start of a long value and a hash of the whole; a single long value would make text arrays wide."""
    return f"{value[:_LONGEST]}... {hashlib.sha256(value.encode(errors='surrogatepass')).hexdigest()[:16]}"


def _sniff_separator(text: str) -> str:
    """Return the separator that gives most rows the same number of values; of several, the rarest in values."""
    shares = {}
    for separator in (*_SEPARATORS, " "):
        try:
            lengths = Counter(map(len, _parse(text, separator, _SAMPLE_ROWS)))
        except csv.Error:
            continue
        (length, times), *_ = [*sorted(lengths.items(), key=lambda item: -item[1]), (0, 0)]
        if length > (2 if separator == " " else 1):  # two words per line are no table
            shares[separator] = times / lengths.total()
    consistent = [separator for separator, share in shares.items() if share >= _CONSISTENT]
    return consistent[0] if consistent else max(shares, key=lambda separator: shares[separator], default=",")


def _inner(rows: list[Row]) -> tuple[list[Row], list[str]]:
    """Return the rows without titles above and notes below the table, and the texts of these.

    Titles and notes are lines with one value beside a table with several columns, and comments.
    """
    usual = Counter(map(len, rows)).most_common(1)[0][0] if rows else 0
    start, stop = 0, len(rows)

    def outside(row: Row) -> bool:
        alone = sum(map(bool, row)) == 1 and (len(row) == 1 < usual or (usual > 2 and bool(row[0])))
        return alone or (row[0].startswith("#") and len(row) != usual)

    while start < stop and outside(rows[start]):
        start += 1
    while stop > start and outside(rows[stop - 1]):
        stop -= 1
    left_out = [" ".join(filter(None, row)) for row in rows[:start] + rows[stop:]]
    return rows[start:stop], left_out


def _header(path: Path, rows: list[Row], config: CsvConfig) -> tuple[list[str], list[Row], list[str]]:
    """Return the names of the columns, the rows below, and notes about the header."""
    first, below = rows[0], rows[1:]
    while len(first) > 1 and not first[-1] and not any("".join(row[len(first) - 1 :]) for row in below):
        first = first[:-1]  # every line ends in a separator
        below = [row[: len(first)] for row in below]
    if below and {len(row) for row in below} == {len(first) + 1}:
        if all(not row[-1] for row in below):
            below = [row[:-1] for row in below]  # only the rows below the header end in a separator
        elif not any(map(_is_number, first)):
            first = ["", *first]  # as in tables that R writes with row names
    others = [row for row in below if row != first] if below.count(first) <= _RARE * len(below) else below
    if _is_header(path, first, others, config):
        again = len(below) - len(others)
        return first, others, [f"the header stands again in {again} rows, left out"] if again else []
    names = [f"column_{number}" for number in range(1, len(first) + 1)]
    return names, [first, *below], [f"no header, so the columns are called column_1 to column_{len(first)}"]


def _is_number(cell: str) -> bool:
    return _NUMBER.fullmatch(cell.replace(",", ".")) is not None


def _is_header(path: Path, first: Row, others: list[Row], config: CsvConfig) -> bool:
    """Return whether the first row is a header, judged by the rows that differ from it."""
    if config.header is not None:
        return config.header
    asked = {config.target, config.client, *config.drop} - {None}
    columns = [[row[place] for row in others if len(row) > place] for place in range(len(first))]
    named = [place for place, cell in enumerate(first) if cell.lower() not in BLANK and not _is_number(cell)]
    known = [place for place in named if first[place] in columns[place]]
    if asked & set(first):
        return True
    if len(named) == len([*filter(None, first)]):  # names are no numbers, and do not look like the values
        alike = any(_shape(first[place]) and _mostly(columns[place], first[place]) for place in named)
        return not alike and (len(first) == 1 or len(known) < len(named))
    if known:
        return False
    if any(_names(first[place], columns[place]) for place in named):
        return True
    return _counts_up(path, first, bool(named))


def _shape(cell: str) -> str:
    """Return the pattern of a date, an amount or a share, with 0 for each number; "" for anything else."""
    mark = re.sub(r"[\d.,\s]", "", cell)
    shape = f"0{mark}" if re.fullmatch("[^\\w\\s-]", mark) else re.sub(r"\d+", "0", cell)
    return shape if re.match("[^\\w\\s]?0[^\\w]|[^\\w\\s]0", shape) else ""


def _mostly(column: Row, cell: str) -> bool:
    """Return whether most values of a column look like this cell."""
    there = [value for value in column if value]
    return sum(_shape(value) == _shape(cell) for value in there) >= _CONSISTENT * max(1, len(there))


def _names(cell: str, column: Row) -> bool:
    """Return whether a word is a header: it is not in the column, whose values are numbers or repeat."""
    there = [value for value in column if value.lower() not in BLANK]
    numbers = sum(map(_is_number, there))
    return bool(there) and (numbers >= _CONSISTENT * len(there) or (not numbers and 2 * len(set(there)) <= len(there)))


def _counts_up(path: Path, first: Row, words: bool) -> bool:
    """Return whether the numbers in the first row are column names: whole numbers that count up.

    Raises
    ------
    FedsimError
        If this cannot be decided.
    """
    numbers = [*filter(_is_number, first)]
    counts = [int(cell) for cell in numbers if cell.isascii() and cell.isdigit()]
    if not numbers:
        return True
    if len(counts) != len(numbers) or not all(a < b for a, b in pairwise(counts)):
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
            raise FedsimError(f"{path}: row {number} has {len(row)} values, the header {len(names)}; correct it")
    return rows
