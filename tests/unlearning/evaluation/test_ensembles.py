"""The metrics over many models, together."""

import numpy as np

from unlearning.evaluation.catalogue import many_oracle_metrics
from unlearning.evaluation.ensembles import Ensembles, measure_ensembles


def test_without_models_each_metric_says_what_it_lacks():
    found = measure_ensembles(None, np.random.default_rng(0))
    for name, oracles in many_oracle_metrics().items():
        assert found[name].value is None
        assert found[name].note == f"needs {oracles} oracles and as many unlearned models; got 1"


def test_many_models():
    rng = np.random.default_rng(8)
    oracles = {name: rng.normal(0, 1, (24, 60)) for name in ("forget", "test")}
    near = Ensembles({name: rng.normal(0, 1, (24, 60)) for name in oracles}, oracles)
    far = Ensembles({**near.unlearned, "forget": rng.normal(4, 1, (30, 60))}, oracles)
    alike, apart = (measure_ensembles(e, np.random.default_rng(0)) for e in (near, far))
    assert abs(alike["klom_forget"].gap) < 0.4
    assert alike["klom_forget"].oracle > alike["klom_forget"].null  # fewer models in a half
    assert apart["klom_forget"].gap > 3
    assert apart["klom_test"].value == alike["klom_test"].value
    assert alike["klom_retain"].note == "margins of this set were not given"
    assert abs(alike["u_lira"].gap) < 4 * alike["u_lira"].standard_error
    assert apart["u_lira"].value > 0.95
    assert alike["forgetting_quality"].value > 3 * apart["forgetting_quality"].value
    assert alike["u_lira"].note == "24 models per side; steady from about 64"
    few = measure_ensembles(Ensembles({"forget": rng.normal(size=(3, 5))}, {"forget": rng.normal(size=(3, 5))}), rng)
    assert few["klom_forget"].value is not None
    assert few["u_lira"].note == "needs 4 oracles and as many unlearned models; got 3"
