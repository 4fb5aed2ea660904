"""What a column of text holds: numbers in whatever spelling, dates, yes and no, or words.

A value is looked at once, however often it occurs. Which of "1,234" and "1.234" is a thousand is decided by what the
rest of the column shows, then the rest of the table.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Kind = Literal["empty", "numbers", "dates", "booleans", "words", "mixed"]

_SPELLED = """
    ? - -- --- . .. \u2013 \u2014 na n/a #n/a #na nan -nan null none nil missing <na>
    #null! #num! #div/0! #value! #ref! #name? 1.#ind -1.#ind 1.#qnan -1.#qnan
"""
BLANK = frozenset(["", *_SPELLED.split()])
"""Values that stand for none, in lower case."""

_ALSO_WORDS = frozenset(["none", "nil", "missing"])
"""Of these, those that among words are words."""

_TRUE, _FALSE = frozenset(["true", "t", "yes", "y", "on", "1"]), frozenset(["false", "f", "no", "n", "off", "0"])

_CURRENCY = "[$\u20ac\u00a3\u00a5\u20b9\u20bd\u20a9\u20ba]|USD|EUR|GBP|CHF|JPY|kr|Rs\\.?"
_UNIT = "[^\\W\\d_\u00b2\u00b3]|[%\u2030\u00b0\u00b5\u00b2\u00b3$\u20ac\u00a3\u00a5\u20b9]"
_SPACES = " \u00a0\u2007\u2009\u202f"
_NUMBER = re.compile(
    rf"(?P<open>\()?(?P<sign>[+\-\u2212])?\s*(?P<before>{_CURRENCY})?\s*(?P<minus>[+\-\u2212])?\s*"
    rf"(?P<body>\d[\d.,'\u2019{_SPACES}]*|[.,]\d+)(?P<power>[eE][+-]?\d+)?"
    rf"\s*(?P<after>(?:{_UNIT})(?:{_UNIT}|[/^.\-]|[mM][23]\b)*)?(?P<close>\))?"
)
_EXACT_DIGITS = 15  # longer whole numbers do not fit into a float: they are codes
_CATEGORICAL = 12
"""Different whole numbers beside words that still may be categories, such as grades 1, 2, 3a, 3b."""
_MOSTLY = 0.5

_DATE_FORMATS = {
    "%Y/%m/%d": "year/month/day", "%d.%m.%Y": "day.month.year", "%d/%m/%Y": "day/month/year",
    "%m/%d/%Y": "month/day/year", "%d-%m-%Y": "day-month-year", "%m-%d-%Y": "month-day-year",
    "%d.%m.%y": "day.month.year", "%d/%m/%y": "day/month/year", "%m/%d/%y": "month/day/year",
    "%d-%b-%Y": "day-month-year", "%d %b %Y": "day month year", "%b %d, %Y": "month day, year",
    "%d-%b-%y": "day-month-year", "%d %B %Y": "day month year", "%B %d, %Y": "month day, year",
}  # fmt: skip
_TIMES = ("", " %H:%M", " %H:%M:%S", " %H:%M:%S.%f", " %I:%M %p", " %I:%M:%S %p")
_SECONDS_PER_DAY = 86_400


@dataclass(frozen=True, eq=False)
class TableColumn:
    """One column, understood."""

    name: str
    kind: Kind
    text: npt.NDArray[np.str_]
    """(n,) as it stands in the file, "" where blank."""
    values: Floats = field(default_factory=lambda: np.empty(0))
    """(n,) numbers, days since 1970, or 0 and 1; NaN where blank; empty for words."""
    note: str = ""
    """How its values are to be read, where they are not plain."""
    odd: tuple[int, str] = (0, "")
    """Row and text of the first value of a mixed column that is no number."""

    @property
    def blank(self) -> npt.NDArray[np.bool_]:
        """(n,) whether there is no value."""
        return np.isnan(self.values) if len(self.values) else self.text == ""


@dataclass
class _Spelling:
    """The different values of a column, matched as numbers."""

    matches: list[re.Match[str] | None]

    @property
    def complete(self) -> bool:
        return bool(self.matches) and all(self.matches)

    @property
    def marks(self) -> frozenset[str]:
        """The decimal marks that all values allow, of "." and ","."""
        allowed = frozenset(".,")
        for match in self.matches:
            allowed &= _marks(match["body"].rstrip(_SPACES)) if match else allowed
        return allowed

    @property
    def ambiguous(self) -> str:
        """Return the sign, "." or ",", that may be either, "" if there is none."""
        bodies = [match["body"] for match in self.matches if match]
        return next((mark for mark in ".," if any(mark in body for body in bodies)), "")


def understand(
    columns: Sequence[tuple[str, npt.NDArray[np.str_]]], decimal: str | None, semicolons: bool,
    dates: Literal["dmy", "mdy"] | None, blanks: Iterable[str],
) -> list[TableColumn]:  # fmt: skip
    """Return what each (name, text) holds.

    Parameters
    ----------
    decimal
        The decimal mark of the table, "." or ","; None finds it out.
    semicolons
        Whether they separate the values, as where the comma is the decimal mark.
    dates
        The order in 1/2/2020; None finds it out.
    blanks
        More values that stand for none.
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
                _words(name, text, kind, none if kind != "words" else none - _ALSO_WORDS - _codes(there, distinct))
            )
            continue
        values = np.array([value_of.get(word, np.nan) for word in distinct.tolist()])[codes]
        out.append(TableColumn(name, kind, np.where(np.isnan(values), "", text), values, note))
    return out


def _marks(body: str) -> frozenset[str]:
    """Return the decimal marks that the digits of one number allow."""
    allowed = set()
    for mark, other in ((".", ","), (",", ".")):
        for group in (re.escape(other), "['\u2019]", f"[{_SPACES}]"):
            thousands = rf"[1-9]\d{{0,2}}(?:{group}\d{{2,3}})*{group}\d{{3}}"
            if re.fullmatch(rf"(?:\d+|{thousands})?(?:{re.escape(mark)}\d*)?", body):
                allowed.add(mark)
    return frozenset(allowed)


def _mark(spelling: _Spelling, clear: set[str], semicolons: bool) -> str:
    """Return the decimal mark of a column, as far as possible from itself, else from the other columns."""
    marks = spelling.marks
    if len(marks) != 2:
        return next(iter(marks), ".")
    if len(clear) == 1:
        return next(iter(clear))
    return "," if spelling.ambiguous == "," and semicolons else "."


def _meaning(there: list[str], spelling: _Spelling, mark: str, dates: str | None) -> tuple[dict[str, float], Kind, str]:
    """Return the value of each word, what they are, and how they were read."""
    if not there:
        return {}, "empty", ""
    lower = {word.lower() for word in there}
    if lower <= _TRUE | _FALSE and not lower <= {"0", "1"}:
        return {word: float(word.lower() in _TRUE) for word in there}, "booleans", ""
    numbers = {word: _number(match, mark) for word, match in zip(there, spelling.matches, strict=True)}
    units = {(match["before"] or "", match["after"] or "") for match in spelling.matches if match}
    good = {word: number for word, number in numbers.items() if number is not None}
    if len(good) == len(there) and len(units) == 1:
        codes = any(match and _is_code(match["body"]) for match in spelling.matches)
        return ({}, "words", "") if codes else (good, "numbers", _how(spelling, units, mark))
    if found := _dates(there, dates):
        return found
    bodies = [match["body"] for match in spelling.matches if match]
    quantities = len(bodies) > _CATEGORICAL or any(not body.isdigit() for body in bodies)
    return {}, "mixed" if quantities and len(bodies) >= _MOSTLY * len(there) else "words", ""


def _number(match: re.Match[str] | None, mark: str) -> float | None:
    if match is None or bool(match["open"]) != bool(match["close"]):
        return None
    body = match["body"].rstrip(_SPACES)
    if mark not in _marks(body):
        return None
    digits = re.sub(f"[{re.escape({'.': ',', ',': '.'}[mark])}'\u2019{_SPACES}]", "", body).replace(mark, ".")
    negative = (match["sign"] or match["minus"] or "+") in "-\u2212" or bool(match["open"])
    return (-1 if negative else 1) * float(digits + (match["power"] or ""))


def _is_code(body: str) -> bool:
    """Tell whether digits are a name rather than a quantity: 01234, or more of them than a float holds."""
    return body.isdigit() and (len(body) > _EXACT_DIGITS or (len(body) > 1 and body[0] == "0"))


def _how(spelling: _Spelling, units: set[tuple[str, str]], mark: str) -> str:
    bodies = [match["body"] for match in spelling.matches if match]
    said = []
    if mark == "," and any("," in body for body in bodies):
        said.append("decimal commas")
    for sign, what in ((",", "commas"), (".", "points"), ("'", "apostrophes"), ("\u2019", "apostrophes")):
        if sign != mark and any(sign in body for body in bodies):
            said.append(f"thousands by {what}")
    if any(re.search(rf"\d[{_SPACES}]\d", body) for body in bodies):
        said.append("thousands by spaces")
    if unit := " ".join(filter(None, next(iter(units)))):
        said.append(f"in {unit}")
    return ", ".join(said)


def _codes(there: list[str], distinct: npt.NDArray[np.str_]) -> set[str]:
    """Return the spelled blanks of a column of words that belong to it: NA among codes of two capitals is Namibia."""
    short = {word for word in there if not re.fullmatch("[A-Z]{2}", word)}
    return {"na"} if there and not short and "NA" in distinct.tolist() else set()


def _words(name: str, text: npt.NDArray[np.str_], kind: Kind, none: Iterable[str]) -> TableColumn:
    blank = np.isin(np.char.lower(text), list(none))
    odd = (0, "")
    if kind == "mixed":
        words = ((row, word) for row, word in enumerate(text.tolist(), 1) if not _NUMBER.fullmatch(word))
        odd = next(((row, word) for row, word in words if not blank[row - 1]), odd)
    return TableColumn(name, kind, np.where(blank, "", text), odd=odd)


def _dates(there: list[str], order: str | None) -> tuple[dict[str, float], Kind, str] | None:
    """Return days since 1970 by word, if all words are dates or times of one form."""
    if not all(re.match(r"[\dA-Za-z]{1,9}[-/. ,:]", word) and any(map(str.isdigit, word)) for word in there):
        return None
    import pandas as pd  # half a second

    found: dict[str, tuple[Floats, str]] = {}

    def attempt(form: str, how: str, unit: str = "days", utc: bool = False) -> None:
        read = pd.to_datetime(pd.Series(there), format=form, errors="coerce", utc=utc)
        if not read.isna().any():
            zero = pd.Timestamp("1900-01-01" if unit == "hours" else "1970-01-01", tz="UTC" if utc else None)
            seconds = (read - zero).dt.total_seconds().to_numpy(np.float64)
            found[how] = seconds / (3600 if unit == "hours" else _SECONDS_PER_DAY), f"{unit}, from {how}"

    if all(re.match(r"\d{4}-\d{1,2}-\d{1,2}", word) for word in there):
        attempt("ISO8601", "year-month-day", utc=True)
        if not found:
            attempt("%Y-%m-%d", "year-month-day")
    for form in ("%H:%M", "%H:%M:%S"):
        attempt(form, "hour:minute", "hours")
    for form, how in _DATE_FORMATS.items():
        for time in _TIMES if not found or how.startswith(("day", "month")) else ():
            if how not in found:
                attempt(form + time, how)
    if not found:
        return None
    hows = [how for how in found if order is None or how.startswith({"dmy": "day", "mdy": "month"}[order])] or [*found]
    values, note = found[hows[0]]
    if len(hows) > 1 and not np.array_equal(values, found[hows[1]][0]):
        note = f"days, from {hows[0]} (as well {hows[1]}: --set data.csv.dates=mdy)"
    return dict(zip(there, values.tolist(), strict=True)), "dates", note
