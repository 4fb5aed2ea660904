"""How a `text:PATH` is read, as options."""

from typing import Literal

from pydantic import Field

from fedsim.schema import Config


class TextConfig(Config):
    """How a text becomes samples: so many characters each, and the one that comes next (LEAF, arXiv:1812.01097)."""

    length: int = Field(80, ge=1, le=4096)
    """Characters of a sample."""
    stride: int = Field(1, ge=1)
    """Characters from the beginning of a sample to that of the next one; 1 takes every character for a target."""
    clients: Literal["auto", "speaker", "section"] = "auto"
    """What is a client: who speaks ("NAME:" or "NAME." begins a speech), or what stands between two headings (# of
    Markdown, or CHAPTER, ACT, SCENE, ... with a number); auto: speakers where there are some."""
