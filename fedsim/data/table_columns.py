"""Determine what a column of text holds: numbers in any spelling, dates, yes and no, or words.

Each distinct value is examined once. Whether "1,234" or "1.234" contains a thousands separator is decided by the rest
of the column, and then by the rest of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["empty", "numbers", "dates", "booleans", "words", "mixed", "mixed dates"]

_SPELLED = """
    ? - -- --- . .. \u2013 \u2014 na n/a #n/a #na nan -nan null none nil missing <na>
    #null! #num! #div/0! #value! #ref! #name? 1.#ind -1.#ind 1.#qnan -1.#qnan
"""
BLANK = frozenset(["", *_SPELLED.split()])
"""Spellings of a missing value, in lower case."""

_ALSO_WORDS = frozenset(["none", "nil", "missing"])
"""Spellings of a missing value that are ordinary words in a column of words."""

_TRUE, _FALSE = frozenset(["true", "t", "yes", "y", "on", "1"]), frozenset(["false", "f", "no", "n", "off", "0"])

_CURRENCY = "[$\u20ac\u00a3\u00a5\u20b9\u20bd\u20a9\u20ba]|USD|EUR|GBP|CHF|JPY|kr|Rs\\.?"
_UNIT = "[^\\W\\d_\u00b2\u00b3]|[%\u2030\u00b0\u00b5\u00b2\u00b3$\u20ac\u00a3\u00a5\u20b9]"
_SPACES = " \u00a0\u2007\u2009\u202f"
_NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[+\-\u2212])?\s*(?P<before>{_CURRENCY})?\s*(?P<minus>[+\-\u2212])?\s*"
    rf"(?P<body>\d[\d.,'\u2019{_SPACES}]*|[.,]\d+)(?P<power>[eE][+-]?\d+)?"
    rf"\s*(?P<after>(?:{_UNIT})(?:{_UNIT}|[/^.\-]|[mM][23]\b)*)?(?P<close>\))?"
)
_PLURAL = 3
"""A unit with more letters than this that ends in s is a plural."""
_EXACT_DIGITS = 15  # longer whole numbers do not fit into a float, so they are codes
_CATEGORICAL = 12
"""With at most this many distinct whole numbers, a column with other words may hold categories, such as 1, 2, 3a."""
_MOSTLY = 0.5

FEW_ROWS = 10
"""With at most this many rows, words that differ in every row may still be categories."""
_INDEX = re.compile(
    r"(unnamed: \d+|index|level_\d|rownames?|(row|record|patient|subject|sample|case)?[ _-]?(id|no|nr|#))", re.I
)

_DATE_FORMATS = {
    "%Y/%m/%d": "year/month/day", "%d.%m.%Y": "day.month.year", "%d/%m/%Y": "day/month/year",
    "%m/%d/%Y": "month/day/year", "%d-%m-%Y": "day-month-year", "%m-%d-%Y": "month-day-year",
    "%d.%m.%y": "day.month.year", "%d/%m/%y": "day/month/year", "%m/%d/%y": "month/day/year", "%Y%m%d": "yearmonthday",
    "%d-%b-%Y": "day-month-year", "%d %b %Y": "day month year", "%b %d, %Y": "month day, year",
    "%d-%b-%y": "day-month-year", "%d %B %Y": "day month year", "%B %d, %Y": "month day, year",
    "%Y-%m": "year-month", "%m/%Y": "month/year", "%b %Y": "month year", "%B %Y": "month year",
}  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_HOURS = ("%H:%M", "%H:%M:%S", "%I:%M %p", "%I:%M:%S %p")
_COMPACT = re.compile(r"(19|20)\d\d(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])")
"""20200131. Fewer such numbers than _COMPACT_LEAST may look like dates by chance."""
_COMPACT_LEAST = 3
_TRIED = 200
"""Number of words on which a date format is tried before it is tried on all."""
_SECONDS_PER_DAY = 86_400
_ENDLESS = re.compile(r"([+\-\u2212]?)(inf|infinity|\u221e)", re.IGNORECASE)
_ADDRESS = re.compile(r"(\d{1,3})\.(\d{1,3})\.(\d{1,3})\.(\d{1,3})")


@dataclass(frozen=True, eq=False)
class TableColumn:
    """One interpreted column."""

    name: str
    kind: Kind
    text: npt.NDArray[np.str_]
    """(n,) the texts of the file, "" if blank."""
    values: Floats = field(default_factory=lambda: np.empty(0))
    """(n,) numbers, days since 1970, or 0 and 1; NaN if blank; empty for words."""
    note: str = ""
    """How its values were interpreted, if it is not obvious."""
    odd: tuple[int, str] = (0, "")
    """For a mixed column: row and text of the first value that is no number, or no date."""

    @property
    def blank(self) -> npt.NDArray[np.bool_]:
        """(n,) whether the value is missing."""
        return np.isnan(self.values) if len(self.values) else self.text == ""

    def names_rows(self, unnamed: bool) -> str:
        """Return why the column only identifies rows: it counts them, or has a new value in each; else ""."""
        there = self.text[self.text != ""]
        many = len(there) > FEW_ROWS
        if self.kind == "words":
            return "another word in every row" if many and len(np.unique(there)) == len(there) else ""
        if self.kind != "numbers" or not (unnamed or _INDEX.fullmatch(self.name)):
            return ""
        values = self.values
        if len(values) > 1 and all(after - before == 1 for before, after in pairwise(values.tolist())):
            return "counts rows"
        whole = np.isfinite(values).all() and (values == np.floor(values)).all()
        return "another number in every row" if many and whole and len(np.unique(values)) == len(values) else ""


@dataclass
class _Spelling:
    """The distinct values of a column, matched as numbers."""

    matches: list[re.Match[str] | None]

    @property
    def complete(self) -> bool:
        return bool(self.matches) and all(self.matches)

    @property
    def marks(self) -> frozenset[str]:
        """The decimal marks that are possible for all values, out of "." and ","."""
        allowed = frozenset(".,")
        for match in self.matches:
            allowed &= _marks(match["body"].rstrip(_SPACES)) if match else allowed
        return allowed

    @property
    def units(self) -> frozenset[tuple[str, str]]:
        """The (texts before, texts after) the numbers, in the singular: 1 day, 2 days."""
        afters = [(match["before"] or "", match["after"] or "") for match in self.matches if match]
        return frozenset(
            (before, after.removesuffix("s") if len(after) > _PLURAL else after) for before, after in afters
        )

    @property
    def ambiguous(self) -> str:
        """Return the sign, "." or ",", that may be a decimal mark or a thousands separator; "" if there is none."""
        bodies = [match["body"] for match in self.matches if match]
        return next((mark for mark in ".," if any(mark in body for body in bodies)), "")


def understand(
    columns: Sequence[tuple[str, npt.NDArray[np.str_]]], decimal: str | None, semicolons: bool,
    dates: Literal["dmy", "mdy"] | None, blanks: Iterable[str],
) -> list[TableColumn]:  # fmt: skip
    """Return the interpretation of each column (name, text).

    Parameters
    ----------
    columns
        (name, (n,) texts) of each column.
    decimal
        The decimal mark of the table, "." or ","; None detects it.
    semicolons
        Whether semicolons separate values, as in tables with decimal commas.
    dates
        The order of day and month in 1/2/2020; None detects it.
    blanks
        Further spellings of a missing value.
    """
    none = BLANK | {word.lower() for word in blanks}
    seen = []
    for name, text in columns:
        distinct, codes = np.unique(text, return_inverse=True)
        there = [word for word in distinct.tolist() if word.lower() not in none]
        seen.append((name, text, distinct, codes, there, _Spelling([_NUMBER.fullmatch(word) for word in there])))
    clear = {next(iter(s.marks)) for *_, s in seen if s.complete and len(s.marks) == 1}
    out = []
    for name, text, distinct, codes, there, spelling in seen:
        mark = decimal or _mark(spelling, clear, semicolons)
        value_of, kind, note = _meaning(there, spelling, mark, dates)
        if not value_of:
            out.append(
                _words(
                    name, text, kind, note, none if kind != "words" else none - _ALSO_WORDS - _codes(there, distinct)
                )
            )
            continue
        values = np.array([value_of.get(word, np.nan) for word in distinct.tolist()])[codes]
        out.append(TableColumn(name, kind, np.where(np.isnan(values), "", text), values, note))
    return out


def _marks(body: str) -> frozenset[str]:
    """Return the decimal marks that are possible for the digits of one number."""
    allowed = set()
    for mark, other in ((".", ","), (",", ".")):
        for group in (re.escape(other), "['\u2019]", f"[{_SPACES}]"):
            thousands = rf"[1-9]\d{{0,2}}(?:{group}\d{{2,3}})*{group}\d{{3}}"
            if re.fullmatch(rf"(?:\d+|{thousands})?(?:{re.escape(mark)}\d*)?", body):
                allowed.add(mark)
    return frozenset(allowed)


def _mark(spelling: _Spelling, clear: set[str], semicolons: bool) -> str:
    """Return the decimal mark of a column: from its own values if possible, otherwise from the other columns."""
    marks = spelling.marks
    if len(marks) != 2:
        return next(iter(marks), ".")
    if len(clear) == 1:
        return next(iter(clear))
    return "," if spelling.ambiguous == "," and semicolons else "."


def _meaning(there: list[str], spelling: _Spelling, mark: str, dates: str | None) -> tuple[dict[str, float], Kind, str]:
    """Return {word: value}, the kind of column, and a note on the interpretation."""
    if not there:
        return {}, "empty", ""
    lower = {word.lower() for word in there}
    if lower <= _TRUE | _FALSE and not lower <= {"0", "1"}:
        return {word: float(word.lower() in _TRUE) for word in there}, "booleans", ""
    numbers = {word: _number(match, mark) for word, match in zip(there, spelling.matches, strict=True)}
    good = {word: number for word, number in numbers.items() if number is not None}
    endless = {word: _endless(word) for word in there if _ENDLESS.fullmatch(word)} if good else {}
    if len(good) + len(endless) == len(there) and len(spelling.units) == 1:
        if any(match and _is_code(match["body"]) for match in spelling.matches) or all(map(_is_address, there)):
            return {}, "words", ""
        compact = len(there) >= _COMPACT_LEAST and all(map(_COMPACT.fullmatch, there))
        if compact and (found := _dates(there, dates)) and found[0]:
            return found
        return good | endless, "numbers", _how(spelling, mark)
    if found := _dates(there, dates):
        return found
    bodies = [match["body"] for match in spelling.matches if match and _marks(match["body"].rstrip(_SPACES))]
    quantities = len(bodies) > _CATEGORICAL or any(not body.isdigit() for body in bodies)
    return {}, "mixed" if quantities and len(bodies) >= _MOSTLY * len(there) else "words", ""


def _endless(word: str) -> float:
    return -np.inf if word[0] in "-\u2212" else np.inf


def _is_address(word: str) -> bool:
    """Return whether a word is an IP address, such as 192.168.100.101, and not a number with points."""
    match = _ADDRESS.fullmatch(word)
    return match is not None and all(int(part) < 256 for part in match.groups())


def _number(match: re.Match[str] | None, mark: str) -> float | None:
    if match is None or bool(match["open"]) != bool(match["close"]):
        return None
    body = match["body"].rstrip(_SPACES)
    if mark not in _marks(body):
        return None
    digits = re.sub(f"[{re.escape({'.': ',', ',': '.'}[mark])}'\u2019{_SPACES}]", "", body).replace(mark, ".")
    negative = (match["sign"] or match["minus"] or "+") in "-\u2212" or bool(match["open"])
    return (-1 if negative else 1) * float(digits + (match["power"] or "")) + 0.0  # turns -0 into 0


def _is_code(body: str) -> bool:
    """Return whether digits are a name and not a quantity: they begin with 0, or do not fit into a float."""
    return body.isdigit() and (len(body) > _EXACT_DIGITS or (len(body) > 1 and body[0] == "0"))


def _how(spelling: _Spelling, mark: str) -> str:
    bodies = [match["body"] for match in spelling.matches if match]
    said = []
    if mark == "," and any("," in body for body in bodies):
        said.append("decimal commas")
    for sign, what in ((",", "commas"), (".", "points"), ("'", "apostrophes"), ("\u2019", "apostrophes")):
        if sign != mark and any(sign in body for body in bodies):
            said.append(f"thousands by {what}")
    if any(re.search(rf"\d[{_SPACES}]\d", body) for body in bodies):
        said.append("thousands by spaces")
    if len(spelling.marks) > 1 and mark == spelling.ambiguous == ".":
        said.append("decimal points (as well thousands by points: --set data.csv.decimal=,)")
    if unit := " ".join(filter(None, next(iter(spelling.units)))):
        said.append(f"in {unit}")
    return ", ".join(said)


def _codes(there: list[str], distinct: npt.NDArray[np.str_]) -> set[str]:
    """Return the spellings of blanks that are words in this column: among two-letter codes, NA is Namibia."""
    short = {word for word in there if not re.fullmatch("[A-Z]{2}", word)}
    return {"na"} if there and not short and "NA" in distinct.tolist() else set()


def _words(name: str, text: npt.NDArray[np.str_], kind: Kind, odd_one: str, none: Iterable[str]) -> TableColumn:
    """Return a column that stays words; `odd_one` is the first word that is no date in a column of dates."""
    blank = np.isin(np.char.lower(text), list(none))
    odd = (0, "")
    if kind.startswith("mixed"):
        words = ((row, word) for row, word in enumerate(text.tolist(), 1) if not blank[row - 1])
        odds = (at for at in words if (at[1] == odd_one if odd_one else not _NUMBER.fullmatch(at[1])))
        odd = next(odds, odd)
    return TableColumn(name, kind, np.where(blank, "", text), odd=odd)


def _dates(there: list[str], order: str | None) -> tuple[dict[str, float], Kind, str] | None:
    """Return ({word: days since 1970}, kind, note) if all words are dates or times in one format.

    If only most of them are, the dict is empty and the note is the first other word. Return None if fewer are.
    """
    like = [bool(re.match(r"\d{8}|[\dA-Za-z]{1,9}[-/. ,:]", word)) and any(map(str.isdigit, word)) for word in there]
    if sum(like) < _MOSTLY * len(there):
        return None
    import pandas as pd  # imported here: it takes half a second

    words = pd.Series(there)
    found: dict[str, tuple[Floats, str]] = {}
    closest: pd.Series[bool] | None = None

    def attempt(form: str, how: str, unit: str = "days", utc: bool = False) -> None:
        nonlocal closest
        for some in (words[:_TRIED], words):
            read = pd.to_datetime(some, format=form, errors="coerce", utc=utc)
            if read.notna().mean() < _MOSTLY:
                return
        if closest is None or read.notna().sum() > closest.sum():
            closest = read.notna()
        if not read.isna().any():
            zero = pd.Timestamp("1900-01-01" if unit == "hours" else "1970-01-01", tz="UTC" if utc else None)
            seconds = (read - zero).dt.total_seconds().to_numpy(np.float64)
            found[how] = seconds / (3600 if unit == "hours" else _SECONDS_PER_DAY), f"{unit}, from {how}"

    if sum(bool(re.match(r"\d{4}-\d{1,2}-\d{1,2}", word)) for word in there) >= _MOSTLY * len(there):
        attempt("ISO8601", "year-month-day", utc=True)
        if not found:
            attempt("%Y-%m-%d", "year-month-day")
    for form in _HOURS:
        attempt(form, "hour:minute", "hours")
    for form, how in _DATE_FORMATS.items():
        for time in _TIMES if not found or how.startswith(("day", "month")) else ():
            if how not in found:
                attempt(form + time, how)
    if not found:
        return None if closest is None or closest.sum() < 2 else ({}, "mixed dates", there[int(closest.argmin())])
    hows = [how for how in found if order is None or how.startswith({"dmy": "day", "mdy": "month"}[order])] or [*found]
    values, note = found[hows[0]]
    if len(hows) > 1 and not np.array_equal(values, found[hows[1]][0]):
        note = f"days, from {hows[0]} (as well {hows[1]}: --set data.csv.dates=mdy)"
    return dict(zip(there, values.tolist(), strict=True)), "dates", note
