"""Options are validated over a method's defaults, and what a method cannot serve has a reason."""

import numpy as np
import pytest

from fedsim.config.run import HistoryConfig
from fedsim.errors import FedsimError
from unlearning.api.registry import load_unlearning
from unlearning.pipeline.apply import options_of, refusal
from unlearning.pipeline.forget import Request

ROWS = np.arange(3)


def test_options_are_those_given_over_the_defaults_of_the_kind() -> None:
    method = load_unlearning("scrub")
    for kind in ("class", "clients"):
        own = method.config.defaults_for.get(kind, {})
        options = options_of(method, {"batch_size": 7}, kind).model_dump()
        assert options["batch_size"] == 7
        assert {name: options[name] for name in own} == own
    with pytest.raises(FedsimError, match=r"^--set scrub\.batch_size: must be at least 1, got 0"):
        options_of(method, {"batch_size": 0})
    with pytest.raises(FedsimError, match=r"^--set scrub\.batch_sizes: no such key.*did you mean 'batch_size'"):
        options_of(method, {"batch_sizes": 1})


@pytest.mark.parametrize(
    ("name", "kind", "keep", "reason"),
    [
        ("finetune", "clients", "none", None),
        ("modhifi_u", "clients", "none", "modhifi_u forgets class, not clients"),
        ("federaser", "clients", "none", "federaser needs what clients sent, which is not kept here"),
        ("federaser", "clients", "norms", "federaser needs what clients sent, which is not kept here"),
        ("federaser", "clients", "updates", None),
    ],
)
def test_a_method_that_cannot_serve_says_why(name: str, kind: str, keep: str, reason: str | None) -> None:
    request = Request("x", kind, ROWS, ROWS + 3)
    told = refusal(load_unlearning(name), request, HistoryConfig.model_validate({"keep": keep}))
    assert told is None if reason is None else str(told).startswith(reason)


def test_methods_for_classes_refuse_several_labels() -> None:
    request = Request("x", "class", ROWS, ROWS + 3, several_labels=True)
    assert refusal(load_unlearning("random_labels"), request, HistoryConfig()) is None
    told = refusal(load_unlearning("unsir"), request, HistoryConfig())
    assert told == "unsir needs one class for each sample, and these have several labels"
