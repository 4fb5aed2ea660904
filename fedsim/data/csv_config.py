"""Options for reading `csv:PATH`."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from fedsim.paths import expanded
from fedsim.schema import Config


class CsvConfig(Config):
    """How a `csv:PATH` is read; options that are not given are detected and reported."""

    target: str | None = None
    """The column to predict; the last one by default."""
    client: str | None = None
    """Column of the owner of a row, such as a hospital; each value is one client."""
    test: str | None = None
    """Another table with the test rows, or a column with the values train and test."""
    drop: tuple[str, ...] = ()
    """Columns to leave out."""
    classes: bool = False
    """Numbers of the target are classes; words always are."""
    header: bool | None = None
    """Whether the first row names the columns."""
    separator: Annotated[str, Field(min_length=1, max_length=1)] | None = None
    """The character between two values; `tab` for a tabulator."""
    decimal: Literal[".", ","] | None = None
    """The decimal mark."""
    dates: Literal["dmy", "mdy"] | None = None
    """Whether 1/2/2020 begins with the day (dmy) or the month (mdy)."""
    blank: tuple[str, ...] = ()
    """Further words for a missing value, in addition to NA, null, ? and similar ones."""
    encoding: str | None = None
    """Encoding of the text; by default UTF-8, UTF-16 or Windows-1252 is detected."""

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
        """Make the path of an existing file absolute, because a run may be resumed from another folder."""
        if value is not None and (path := expanded(value)).is_file():
            return str(path.resolve())
        return value
