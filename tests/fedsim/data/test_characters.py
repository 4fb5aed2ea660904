"""Characters are numbered by the training text, and each has a name that leads back to it."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from fedsim.data.characters import Vocabulary, character_name


@settings(deadline=None)
@given(st.text(max_size=50), st.text(max_size=50))
def test_characters_have_names_that_lead_back_to_them(known, other):
    vocabulary = Vocabulary(known)
    assert len(set(vocabulary.names)) == len(vocabulary) == len(set(known)) + 1
    assert Vocabulary.named(vocabulary.names).names == vocabulary.names
    codes = vocabulary.encode(known + other)
    assert codes.dtype == np.int16
    order = sorted(set(known))
    assert codes.tolist() == [order.index(c) if c in order else len(order) for c in known + other]


def test_names_of_signs_are_those_of_unicode():
    assert [character_name(c) for c in "e\xdf, \n3="] == [
        "e", "\xdf", "comma", "space", "newline", "digit three", "equals sign",
    ]  # fmt: skip
