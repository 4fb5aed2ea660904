"""How folders of images are read, as options."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fedsim.schema import Config


class FolderConfig(Config):
    """How a `folder:PATH`, or a named set that is a folder of images, is read."""

    size: int | None = Field(None, ge=1, le=4096)
    """Side in pixels of what images become: the short side is resized, the middle cut out. By default 64, and what
    its authors use for a named set."""
    grey: bool = False
    """One channel in place of three."""
    table: str | None = None
    """CSV or parquet file in the folder with a row for each image; by default metadata or labels, .csv or .parquet, if
    there is one, else each folder is a class."""
    path: str | None = None
    """Column of the images' files, relative to the folder; found by its usual names."""
    label: tuple[str, ...] = ()
    """Column of the classes, found by its usual names; or several columns of 0 and 1, each a label of its own."""
    identity: str | None = None
    """Column that says who or what an image is of."""
    split: str | None = None
    """Column of the words train, test, val and unseen, which are people or things that no model is trained or tested
    on. Without one, a share of each class is the test set, the same in every run."""
    missing: Literal["refuse", "drop"] = "refuse"
    """What to do with rows whose image is not there."""
    dedup: Literal["none", "exact", "phash"] = "none"
    """Leave out images whose pixels (exact) or low frequencies (phash) are those of an earlier one: of training
    images first, then of those to test on, then of never-seen ones."""

    @field_validator("label", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class MufacConfig(Config):
    """How MUFAC's folder is read (arXiv:2311.02240)."""

    expect: Literal["any", "paper"] = "any"
    """paper: refuse other numbers of images than the authors'."""


class MucacConfig(Config):
    """How MUCAC's folder is read (arXiv:2311.02240)."""

    attribute: Literal["all", "Male", "Smiling", "Young"] = "all"
    """One attribute makes two classes; all are three labels."""
    thresholds: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (
        190, 1250, 4855,
    )  # fmt: skip
    """(a, b, c): people below a are tested on, those below c trained on, of whom the paper forgets those below b, and
    those from c on are never seen."""
    shuffled: bool = False
    """Give out the numbers of people at random: small ones have more images, so that forgotten and never-seen people
    differ in more than having been seen."""
    expect: Literal["any", "paper"] = "any"
    """paper: refuse other numbers of images than the authors'."""

    @field_validator("thresholds")
    @classmethod
    def _ascend(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not 0 < value[0] < value[1] < value[2]:
            raise ValueError(f"must ascend from above 0, got {list(value)}")
        return value
