"""How a `hf:NAME` is read, as options."""

from pydantic import Field

from fedsim.schema import Config


class HfConfig(Config):
    """How a Hugging Face data set is read; what is not given is found and announced."""

    inputs: str | None = None
    """Column of the images, or of lists of numbers; by default the only column of images, else all of numbers."""
    label: str | None = None
    """Column of what is to be predicted, found by its usual names."""
    client: str | None = None
    """Column that says who a sample is of, found by its usual names: for --partition natural and --forget identity."""
    size: int | None = Field(None, ge=1, le=4096)
    """Side in pixels of what images become; by default that of the first image, which all then have to have."""
