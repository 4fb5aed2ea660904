"""A generated play: eight speakers with their own words, for next-character prediction without a download."""

from __future__ import annotations

from functools import cache

from fedsim.randomness import generator

_SPEECHES, _SENTENCES = 40, 3  # speeches per speaker, sentences per speech
_SPEAKERS = {
    "Baker": ("bread oven flour crust", "knead bake carry burn", "warm sweet heavy golden"),
    "Sailor": ("harbour mast rope storm", "haul steer follow curse", "grey salt hollow distant"),
    "Gardener": ("rose spade hedge orchard", "water plant trim bury", "green thorny early ripe"),
    "Judge": ("law oath verdict witness", "weigh grant deny record", "stern honest final doubtful"),
    "Miller": ("wheel grain sack river", "grind lift measure trade", "slow dusty full broken"),
    "Piper": ("tune drum dance feast", "play whistle hum forget", "merry quick drunken bright"),
    "Widow": ("candle letter window grave", "keep mourn read remember", "pale silent lonely dear"),
    "Soldier": ("sword banner camp wound", "guard charge sharpen lose", "brave weary foreign red"),
}
_FRAMES = (
    "I {verb} the {adjective} {noun}",
    "the {noun} is {adjective}, and I {verb} it still",
    "will you {verb} my {noun} when the {other} is {adjective}",
    "bring me the {adjective} {noun} and I shall {verb} the {other}",
    "no {noun} was ever so {adjective}",
)
_ENDS = ".!?"


@cache
def play() -> str:
    """Return the play, always the same: all speakers take turns, and a line with the name precedes each speech."""
    rng = generator(0, "play")
    lines = []
    for _ in range(_SPEECHES):
        for name in rng.permutation(list(_SPEAKERS)).tolist():
            nouns, verbs, adjectives = (words.split() for words in _SPEAKERS[name])
            sentences = []
            for _ in range(_SENTENCES):
                noun, other = rng.choice(nouns, 2, replace=False)
                said = str(rng.choice(_FRAMES)).format(
                    noun=noun, other=other, verb=rng.choice(verbs), adjective=rng.choice(adjectives)
                )
                sentences.append(said[0].upper() + said[1:] + str(rng.choice(list(_ENDS), p=(0.6, 0.2, 0.2))))
            lines.append(f"{name.upper()}:\n{' '.join(sentences)}\n")
    return "\n".join(lines)
