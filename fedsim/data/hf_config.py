"""Options for reading `hf:NAME`."""

from pydantic import Field

from fedsim.schema import Config


class HfConfig(Config):
    """Options for reading a Hugging Face data set; columns that are not given are detected and reported."""

    inputs: str | None = None
    """Column of the images, or of lists of numbers; by default the only column of images, else all of numbers."""
    label: str | None = None
    """Column to predict; by default found by its usual names."""
    client: str | None = None
    """Column of the person or site of a sample, for --partition natural and --forget identity; by default found by its
    usual names."""
    size: int | None = Field(None, ge=1, le=4096)
    """Side of the images after resizing, in pixels; by default all images must have the size of the first."""
