"""Plain text as samples for next-character prediction: a sequence of characters, and the next one.

As in LEAF (arXiv:1812.01097), the last part of each client's text is its test text, no sample crosses that border, and
the vocabulary is that of the training text.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fedsim.data.characters import MOST_CHARACTERS, Vocabulary
from fedsim.data.npz import Part
from fedsim.data.text_config import TextConfig
from fedsim.errors import FedsimError
from fedsim.reading import decoded, read_regular

_MOST_FILE = 1 << 30
_MOST_BYTES = 1 << 33
"""Size of all samples, at most."""
_HEADING = re.compile(
    r"#{1,6}\s+\S.*|(?:CHAPTER|PART|BOOK|ACT|SCENE|SECTION|LETTER|CANTO|VOLUME)\s+(?:[IVXLCDM]+|\d+|[A-Z]+)\b.*", re.I
)
_ALONE = re.compile(r"(?P<name>[^\W\d_][\w' -]{0,39}):|(?P<loud>[A-Z][A-Z' -]{0,39}[A-Z])\.")
"""A line with the name of the speaker of the next lines."""
_BEFORE = re.compile(r"(?P<name>[A-Z][A-Z' -]{0,39}[A-Z])[.:]\s+(?P<speech>\S.*)")
"""A speaker's name in capitals, and the speech behind it; an ordinary sentence may begin with a word and a stop."""
_SHOWN = 3


class Passage(NamedTuple):
    """The whole text of one client, in order."""

    name: str
    text: str


@dataclass(frozen=True, eq=False)
class Text:
    """A text as samples: `x` int16 (n, L) and `y` int64 (n,), both classes of characters; identities are clients."""

    train: Part
    test: Part
    classes: tuple[str, ...]
    clients: tuple[str, ...] | None
    """None if the text is not divided."""
    reading: str
    """A sentence about how the text was interpreted."""
    kind: str
    """The kind of clients, "speakers" or "sections"; empty if the text is not divided."""


def read_text(path: Path, config: TextConfig, test_fraction: float, *, need_clients: bool) -> Text:
    """Return a text file as samples.

    Raises
    ------
    FedsimError
        If it cannot be read or is too short, or if clients are needed and fewer than two are found.
    """
    try:
        text, encoding = decoded(read_regular(path, _MOST_FILE))
    except FileNotFoundError:
        raise FedsimError(f"{path}: no such file; give the path of a plain text as text:PATH") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or " ".join(str(error).split())
        raise FedsimError(f"{path}: cannot be read as a text ({reason}); give a plain text in UTF-8") from None
    return samples_of(text, str(path), config, test_fraction, need_clients=need_clients, note=encoding)


def samples_of(
    text: str, where: str, config: TextConfig, test_fraction: float, *, need_clients: bool, note: str = ""
) -> Text:
    """Return a text as samples; error messages begin with `where`."""
    passages, kind = passages_of(re.sub(r"\r\n?", "\n", text), config)
    if need_clients and len(passages) < 2:
        wanted = "speakers or sections" if config.clients == "auto" else f"{config.clients}s"
        raise FedsimError(
            f"{where}: no two {wanted} found, which would be the clients; begin speeches with NAME: or sections with "
            "# HEADING, or give --partition iid"
        )
    cut = [(name, *_cut(whole, test_fraction)) for name, whole in passages]
    kept = [(name, train, test) for name, train, test in cut if len(train) > config.length]
    vocabulary = Vocabulary("".join(train for _, train, _ in kept))
    if len(vocabulary) > MOST_CHARACTERS:
        raise FedsimError(f"{where}: has {len(vocabulary):,} different characters, more than {MOST_CHARACTERS:,}")
    if sum(len(train) for _, train, _ in kept) // config.stride * config.length * 2 > _MOST_BYTES:
        raise FedsimError(f"{where}: makes more than 8 GB of samples; raise data.text.stride or lower data.text.length")
    train = _samples([train for _, train, _ in kept], vocabulary, config)
    test = _samples([test for _, _, test in kept], vocabulary, config)
    if not len(train.y) or not len(test.y):
        raise FedsimError(f"{where}: no part of it is longer than data.text.length ({config.length}); lower that")
    names = tuple(name for name, _, _ in kept)
    reading = _reading(names, [one for one in passages if one.name not in names], kind, vocabulary, config, note)
    return Text(train, test, vocabulary.names, names if kind else None, reading, kind)


def passages_of(text: str, config: TextConfig) -> tuple[list[Passage], str]:
    """Return the passages of a text in the order of appearance, and their kind: "speakers", "sections" or ""."""
    for kind, find in (("speaker", _speakers), ("section", _sections)):
        if config.clients in ("auto", kind) and len(found := find(text)) > 1:
            return found, f"{kind}s"
    return [Passage("text", text)], ""


def _speakers(text: str) -> list[Passage]:
    speeches: dict[str, list[str]] = {}
    now: list[str] | None = None
    for line in text.split("\n"):
        stripped = line.strip()
        if _HEADING.fullmatch(stripped):
            now = None  # text between a heading and the next speech belongs to no speaker
        elif alone := _ALONE.fullmatch(stripped):
            now = speeches.setdefault(_spelt(alone["name"] or alone["loud"]), [])
        elif before := _BEFORE.fullmatch(stripped):
            now = speeches.setdefault(_spelt(before["name"]), [])
            now.append(before["speech"])
        elif now is not None and stripped:
            now.append(stripped)
    return [Passage(name, "\n".join(lines) + "\n") for name, lines in speeches.items() if lines]


def _sections(text: str) -> list[Passage]:
    sections: dict[str, list[str]] = {}
    now: list[str] | None = None
    for line in text.split("\n"):
        if _HEADING.fullmatch(line.strip()):
            name = " ".join(line.strip("# \t").split())
            again = sum(known.partition(" (")[0] == name for known in sections)
            now = sections.setdefault(f"{name} ({again + 1})" if again else name, [])
        elif now is not None:
            now.append(line.rstrip())
    parts = {name: "\n".join(lines).strip("\n") for name, lines in sections.items()}
    return [Passage(name, f"{part}\n") for name, part in parts.items() if part]


def _spelt(name: str) -> str:
    """Return a speaker's name in one spelling, because plays write both ROMEO and Romeo."""
    return " ".join(name.split()).title()


def _cut(text: str, test_fraction: float) -> tuple[str, str]:
    """Return the training part of a client's text, and the later part as test part."""
    border = round(len(text) * (1 - test_fraction))
    return text[:border], text[border:]


def _samples(texts: Sequence[str], vocabulary: Vocabulary, config: TextConfig) -> Part:
    length, xs, ys = config.length, [np.empty((0, config.length), np.int16)], [np.empty(0, np.int64)]
    for text in texts:
        codes = vocabulary.encode(text)
        if len(codes) > length:
            windows = np.lib.stride_tricks.sliding_window_view(codes, length + 1)[:: config.stride]
            xs.append(np.ascontiguousarray(windows[:, :length]))
            ys.append(windows[:, length].astype(np.int64))
        else:
            xs.append(xs[0])
            ys.append(ys[0])
    owners = np.repeat(np.arange(len(texts)), [len(y) for y in ys[1:]])
    return Part(np.concatenate(xs), np.concatenate(ys), owners)


def _reading(
    names: Sequence[str], dropped: Sequence[Passage], kind: str, vocabulary: Vocabulary, config: TextConfig, note: str
) -> str:
    shown = ", ".join(names[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
    told = [f"text: {len(vocabulary) - 1} different characters", f"samples of {config.length} and the next one"]
    told += [f"{kind}: {len(names)} clients ({shown})"] if kind else ["neither speakers nor sections"]
    if dropped:
        told.append(f"{len(dropped)} with too little text left out")
    return "; ".join(told + ([note] if note else []))
