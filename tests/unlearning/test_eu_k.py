"""EU-k: what is left of the start."""

from tests.unlearning.digits_views import apply, assert_same_bits, few, new_model


def test_eu_k_of_all_blocks_forgets_the_weights_it_started_from():
    (forget, retain), models = few(), (new_model(seed=0), new_model(seed=1))
    first, second = (apply("eu_k", model, forget, retain, blocks=99, epochs=1) for model in models)
    assert_same_bits(first, second)
