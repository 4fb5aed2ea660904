"""NoMUS against the 45 published triples, and the other one-line formulas."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unlearning.evaluation.nomus import nomus

# Accuracy, |MIA - 1/2| and NoMUS of nine methods on MUFAC, MUCAC and its three attributes (arXiv:2311.02240).
PUBLISHED = """
.5951 .488 .6055 .5900 .4048 .5893 .5925 .5984 .5633
.2136 .0445 .2129 .2126 .0485 .2089 .1990 .1415 .0953
.5839 .6995 .5898 .5824 .6539 .5857 .5972 .6577 .6863
.8852 .8135 .9147 .9197 .4193 .7087 .9220 .9073 .7607
.0568 .0436 .0708 .0685 .0356 .0324 .0705 .0478 .0152
.8858 .8631 .8865 .8913 .6740 .8219 .8905 .9058 .8651
.9835 .9515 .9849 .9840 .1762 .9481 .9845 .1762 .9147
.0306 .0154 .0281 .0291 .1289 .0638 .0481 .1329 .0129
.9611 .9603 .9643 .9629 .4592 .9102 .9441 .4552 .9444
.9467 .6518 .9476 .9472 .5549 .8619 .9506 .5549 .9423
.0346 .0182 .0279 .0294 .0366 .0416 .0271 .468 .0354
.9387 .8077 .9459 .9442 .7408 .8893 .9482 .3094 .9357
.9089 .8271 .9147 .9118 .1733 .826 .9021 .8929 .5573
.0456 .0234 .0426 .0456 .0513 .0229 .0493 .0428 .0139
.9088 .8901 .9147 .9103 .5353 .8901 .9017 .9036 .7647
"""
ROWS = [[float(cell) for cell in line.split()] for line in PUBLISHED.split("\n") if line]
TRIPLES = [triple for i in range(0, 15, 3) for triple in zip(*ROWS[i : i + 3], strict=True)]
fractions = st.floats(0, 1)


def test_the_published_values():
    assert len(TRIPLES) == 45
    for accuracy, score, published in TRIPLES:
        assert nomus(accuracy, 0.5 + score) == pytest.approx(published, abs=6e-5)  # they are rounded to 1e-4
        assert nomus(accuracy, 0.5 - score) == pytest.approx(published, abs=6e-5)


def test_corners():
    assert nomus(1, 0.5) == 1
    assert nomus(0, 1) == nomus(0, 0) == 0
    assert nomus(0, 0.2) == pytest.approx(0.2)


def test_the_constant_predictor_is_rewarded():
    """(largest share + 1) / 2 at chance: .9125 for 82.5 % of one class."""
    assert nomus(0.825, 0.5) == pytest.approx(0.9125)


@given(fractions, fractions, fractions)
def test_nomus_stays_in_range(accuracy, mia, weight):
    assert -1e-12 <= nomus(accuracy, mia, weight) <= 1 + 1e-12
