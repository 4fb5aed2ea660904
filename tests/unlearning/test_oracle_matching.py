"""Oracle matching: an oracle is approached."""

from dataclasses import replace

from tests.unlearning.digits_views import apply, few, logits, new_model
from unlearning.parts.matching import matching_loss


def test_itself_as_oracle_is_matched_already(model) -> None:
    views = [replace(view, oracle=logits(model, view)) for view in few()]
    found = apply("oracle_matching", model, *views, epochs=3, lr=1e-6, batch_size=1_000)
    for view in views:
        assert float(matching_loss(logits(found, view), view.oracle)) < 1e-8


def test_an_oracle_is_approached(model) -> None:
    oracle = new_model("mlp", hidden=(32,), seed=5)
    forget, retain = (replace(view, oracle=logits(oracle, view)) for view in few(40, 200))
    found = apply("oracle_matching", model, forget, retain, epochs=60, lr=3e-3)
    before, after = (float(matching_loss(logits(m, forget), forget.oracle)) for m in (model, found))
    assert after < 0.2 * before
