"""Texts and numbers in overrides."""

import pytest

from fedsim.config.resolve import parse_override, resolve


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("training.lr=0.1", "training.lr", 0.1),
        ("training.lr=1e-3", "training.lr", "1e-3"),  # YAML's idea of it; pydantic makes it a number
        ("model.hidden=[10, 20]", "model.hidden", [10, 20]),
        ("name=", "name", None),
        ("name='7'", "name", "7"),
        ("data.name=npz:a=b.npz", "data.name", "npz:a=b.npz"),
        ("strategy={name: fedprox, mu: 1}", "strategy", {"name": "fedprox", "mu": 1}),
        # Options that hold text take it as it stands.
        ("data.csv.target=# rooms", "data.csv.target", "# rooms"),
        ("data.csv.target=10", "data.csv.target", "10"),
        ("data.csv.target=no", "data.csv.target", "no"),
        ("data.csv.target=2020-01-02", "data.csv.target", "2020-01-02"),
        ("data.csv.target=weight, kg: {mean}", "data.csv.target", "weight, kg: {mean}"),
        ("data.csv.target=null", "data.csv.target", None),
        ("data.csv.client=yes", "data.csv.client", "yes"),
        ("data.csv.decimal=,", "data.csv.decimal", ","),
        ("data.csv.drop=[10, no, # rooms]", "data.csv.drop", ["10", "no", "# rooms"]),
        ("data.csv.drop=height, cm", "data.csv.drop", ["height, cm"]),
        ('data.csv.drop=["height, cm", x]', "data.csv.drop", ["height, cm", "x"]),
        ("data.root=~", "data.root", None),
        ("out=10", "out", "10"),
        ("cohort=10", "cohort", 10),
        ("data.csv.classes=yes", "data.csv.classes", True),
    ],
)
def test_the_value_of_an_override_is_yaml(text: str, key: str, value: object) -> None:
    assert parse_override(text) == (key, value)


def test_exponents_are_numbers() -> None:
    assert resolve(dict([parse_override("training.lr=1e-3")])).training.lr == 0.001
