"""How a `csv:PATH` is read, as options."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fedsim.paths import expanded
from fedsim.schema import Config


class CsvConfig(Config):
    """How a `csv:PATH` is read; what is not given is found out and announced."""

    target: str | None = None
    """The column to predict; the last one by default."""
    client: str | None = None
    """The column that names who holds a row, such as a hospital: one client for each name."""
    test: str | None = None
    """Another table with the test rows, or the column that says of each row whether it is train or test."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    classes: bool = False
    """Take the numbers of the target for classes; words always are."""
    header: bool | None = None
    """Whether the first row names the columns."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """The sign between two values; tab for a tabulator."""
    decimal: Literal[".", ","] | None = None
    """The decimal mark."""
    dates: Literal["dmy", "mdy"] | None = None
    """What comes first in 1/2/2020, day or month."""
    blank: tuple[str, ...] = ()
    """More words that stand for a missing value, beside NA, null, ? and their kin."""
    encoding: str | None = None
    """Of the text; UTF-8, UTF-16 and Windows-1252 are told apart without."""

    @field_validator("separator", mode="before")
    @classmethod
    def _tabulator(cls, value: object) -> object:
        return "\t" if value in ("tab", "\\t") else value

    @field_validator("target", "client", "test", mode="before")
    @classmethod
    def _names_are_text(cls, value: object) -> object:
        return str(value) if isinstance(value, int) and not isinstance(value, bool) else value

    @field_validator("drop", "blank", mode="before")
    @classmethod
    def _one_or_several(cls, value: object) -> object:
        if isinstance(value, str):
            return (value,)
        if isinstance(value, list | tuple):
            return tuple(str(one) if isinstance(one, int) and not isinstance(one, bool) else one for one in value)
        return value

    @field_validator("test")
    @classmethod
    def _keeps_its_place(cls, value: str | None) -> str | None:
        """Make the path of an existing file absolute: a run goes on from another folder."""
        if value is not None and (path := expanded(value)).is_file():
            return str(path.resolve())
        return value
