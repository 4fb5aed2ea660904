"""The play is always the same, and its speakers can be told apart by their words."""

import hashlib

from fedsim.data.play import _SPEAKERS, play
from fedsim.data.text import passages_of
from fedsim.data.text_config import TextConfig


def test_every_speaker_uses_only_its_own_words() -> None:
    passages, kind = passages_of(play(), TextConfig())
    assert kind == "speakers"
    assert {name for name, _ in passages} == set(_SPEAKERS)
    for name, text in passages:
        said = set(text.lower().replace(",", " ").replace(".", " ").replace("?", " ").replace("!", " ").split())
        for other, kinds in _SPEAKERS.items():
            assert bool(said & set(" ".join(kinds).split())) == (other == name)


def test_the_play_does_not_change() -> None:
    assert hashlib.sha256(play().encode()).hexdigest().startswith("7ae22c45fb54352a")
