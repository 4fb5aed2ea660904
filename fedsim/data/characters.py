"""Characters as numbers, and what the classes of next-character prediction are called."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Codes = npt.NDArray[np.int16]

UNKNOWN = "unknown"
"""The last class: every character that is not in the training text."""
MOST_CHARACTERS = 2**15 - 1
_OTHERS = {"\n": "newline", "\t": "tab"}


def character_name(character: str) -> str:
    """Return what a character is called: a letter by itself, another by its name in Unicode, such as `comma`."""
    if character.isalpha():
        return character
    return _OTHERS.get(character) or unicodedata.name(character, f"U+{ord(character):04X}").lower()


def _character(name: str) -> str:
    """Return the character of a name."""
    if len(name) == 1:
        return name
    if name.startswith("u+"):
        return chr(int(name[2:], 16))
    return next((char for char, other in _OTHERS.items() if other == name), "") or unicodedata.lookup(name.upper())


class Vocabulary:
    """The characters that a model knows, in the order of their code points, and one class for all others."""

    def __init__(self, characters: Iterable[str]) -> None:
        self._points = np.array(sorted(map(ord, set(characters))), np.uint32)

    @classmethod
    def named(cls, names: Sequence[str]) -> Vocabulary:
        """Return the vocabulary whose classes have these names.

        Raises
        ------
        KeyError, ValueError
            If they are no names of characters.
        """
        return cls(map(_character, names[:-1]))

    @property
    def names(self) -> tuple[str, ...]:
        """(V + 1,) of the classes."""
        return (*(character_name(chr(point)) for point in self._points.tolist()), UNKNOWN)

    def __len__(self) -> int:
        return len(self._points) + 1

    def encode(self, text: str) -> Codes:
        """Return the classes of a text's characters, (len(text),)."""
        points = np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")
        codes = np.searchsorted(self._points, points)
        known = np.zeros(len(points), np.bool_)
        inside = codes < len(self._points)
        known[inside] = self._points[codes[inside]] == points[inside]
        return np.where(known, codes, len(self._points)).astype(np.int16)
