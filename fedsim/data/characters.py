"""Characters as numbers, and the class names of next-character prediction."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int16]

UNKNOWN = "unknown"
"""The last class: every character that does not occur in the training text."""
MOST_CHARACTERS = 2**15 - 1
_OTHERS = {"\n": "newline", "\t": "tab"}


def character_name(character: str) -> str:
    """Return a character's name: a letter itself, other characters by their Unicode name, such as `comma`."""
    if character.isalpha():
        return character
    return _OTHERS.get(character) or unicodedata.name(character, f"U+{ord(character):04X}").lower()


def _character(name: str) -> str:
    """Return the character with this name."""
    if len(name) == 1:
        return name
    if name.startswith("u+"):
        return chr(int(name[2:], 16))
    return next((char for char, other in _OTHERS.items() if other == name), "") or unicodedata.lookup(name.upper())


class Vocabulary:
    """The characters that a model knows, ordered by code point, and one class for all others."""

    def __init__(self, characters: Iterable[str]) -> None:
        self._points = np.array(sorted(map(ord, set(characters))), np.uint32)

    @classmethod
    def named(cls, names: Sequence[str]) -> Vocabulary:
        """Return the vocabulary whose classes have these names; the last one is for unknown characters.

        Raises
        ------
        KeyError, ValueError
            If a name is no name of a character.
        """
        return cls(map(_character, names[:-1]))

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the V + 1 classes."""
        return (*(character_name(chr(point)) for point in self._points.tolist()), UNKNOWN)

    def __len__(self) -> int:
        return len(self._points) + 1

    def encode(self, text: str) -> Codes:
        """Return the classes of a text's characters, (len(text),) int16."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        codes = np.searchsorted(self._points, points)
        known = np.zeros(len(points), np.bool_)
        inside = codes < len(self._points)
        known[inside] = self._points[codes[inside]] == points[inside]
        return np.where(known, codes, len(self._points)).astype(np.int16)
