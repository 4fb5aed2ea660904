"""The end of an error line names the closest valid name; an error is one line."""

from fedsim.errors import nearest, reason_of


def test_the_nearest_name_is_offered_before_all_names() -> None:
    assert nearest("fedpox", ["fedprox", "ditto"]) == "did you mean 'fedprox'? valid: ditto, fedprox"
    assert nearest("nothing alike", ["fedprox", "ditto"]) == "valid: ditto, fedprox"


def test_a_reason_is_one_line() -> None:
    assert reason_of(ValueError("two\n  lines")) == "ValueError: two lines"
