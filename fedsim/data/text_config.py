"""Options for reading `text:PATH`."""

from typing import Literal

from pydantic import Field

from fedsim.schema import Config


class TextConfig(Config):
    """How a text is split into samples: character sequences, each with its next character (LEAF, arXiv:1812.01097)."""

    length: int = Field(80, ge=1, le=4096)
    """Characters per sample."""
    stride: int = Field(1, ge=1)
    """Distance of the starts of successive samples, in characters; 1 makes every character a target."""
    clients: Literal["auto", "speaker", "section"] = "auto"
    """The unit that is a client. speaker: "NAME:" or "NAME." begins a speech; section: text between two headings
    (Markdown's #, or CHAPTER, ACT, SCENE, ... with a number); auto: speakers if there are any."""
