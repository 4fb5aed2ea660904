"""The description of a metric, in one line."""

from unlearning.evaluation.metric import Metric, percent


def test_the_meaning_names_unit_direction_and_how_to_read_it() -> None:
    plain = Metric("a", "A", "accuracy of a", "oracle", 0, 1)
    assert plain.meaning == "accuracy of a; best near the oracle's"
    assert plain.write(0.12345) == "0.123"
    full = Metric("b", "B", "loss", "low", 0, None, "nats", "Beware", models=4, steady_from=40)
    assert full.meaning == "loss; nats; low is best; Beware; steady from about 40 models of each kind"


def test_percent() -> None:
    assert percent(0.1234) == "12.3 %"
