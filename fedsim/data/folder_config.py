"""Options for reading folders of images."""

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator

from fedsim.schema import Config


class FolderConfig(Config):
    """Options for reading `folder:PATH`, or a named set that is a folder of images."""

    size: int | None = Field(None, ge=1, le=4096)
    """Side of the images in pixels, after resizing the short side and a centre crop; by default 64, or the authors'
    size for a named data set."""
    grey: bool = False
    """Convert images to one grey channel."""
    table: str | None = None
    """CSV or parquet file in the folder with a row per image; by default metadata or labels, .csv or .parquet, if
    present; without a table, each folder is a class."""
    path: str | None = None
    """Column of the images' paths, relative to the folder; by default found by its usual names."""
    label: tuple[str, ...] = ()
    """Column of the classes, by default found by its usual names; or several columns of 0 and 1, one per label."""
    identity: str | None = None
    """Column of the person or thing in an image."""
    split: str | None = None
    """Column with the values train, test, val and unseen; unseen samples are of people or things that are used neither
    for training nor for testing. Without this column, a share of each class is the test set, the same in every run."""
    missing: Literal["refuse", "drop"] = "refuse"
    """Treatment of rows whose image is missing."""
    dedup: Literal["none", "exact", "phash"] = "none"
    """Leave out duplicates of an earlier image, by pixels (exact) or low frequencies (phash); training images come
    first, then test images, then unseen ones."""

    @field_validator("label", mode="before")
    @classmethod
    def _one_or_several(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value


class MufacConfig(Config):
    """Options for reading MUFAC's folder (arXiv:2311.02240)."""

    expect: Literal["any", "paper"] = "any"
    """paper: require the authors' numbers of images."""


class MucacConfig(Config):
    """Options for reading MUCAC's folder (arXiv:2311.02240)."""

    attribute: Literal["all", "Male", "Smiling", "Young"] = "all"
    """One attribute makes two classes; all are three labels."""
    thresholds: tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = (
        190, 1250, 4855,
    )  # fmt: skip
    """(a, b, c): people with numbers below a are the test set, from a to c the training set (the paper forgets those
    below b), and from c on the unseen set."""
    shuffled: bool = False
    """Renumber people at random. Otherwise small numbers have more images, so forgotten and unseen people differ in
    more than in training."""
    expect: Literal["any", "paper"] = "any"
    """paper: require the authors' numbers of images."""

    @field_validator("thresholds")
    @classmethod
    def _ascend(cls, value: tuple[int, int, int]) -> tuple[int, int, int]:
        if not 0 < value[0] < value[1] < value[2]:
            raise ValueError(f"must ascend from above 0, got {list(value)}")
        return value
