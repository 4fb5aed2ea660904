"""The metrics over many models, together."""

import numpy as np

from unlearning.evaluation.ensembles import Ensembles, measure_ensembles


def test_many_models() -> None:
    rng = np.random.default_rng(8)
    oracles = {name: rng.normal(0, 1, (24, 60)) for name in ("forget", "test")}
    near = Ensembles({name: rng.normal(0, 1, (24, 60)) for name in oracles}, oracles)
    far = Ensembles({**near.unlearned, "forget": rng.normal(4, 1, (30, 60))}, oracles)
    alike, apart = (measure_ensembles(e, np.random.default_rng(0)) for e in (near, far))
    null = alike["klom_forget"].null
    assert null is not None
    assert abs(alike["klom_forget"].value - null) < 0.4
    assert apart["klom_forget"].value - null > 3
    assert apart["klom_test"].value == alike["klom_test"].value
    assert "klom_retain" not in alike  # its margins were not given
    found = alike["u_lira"]
    assert found.low is not None
    assert found.high is not None
    assert found.low - 0.05 < 0.5 < found.high + 0.05
    assert apart["u_lira"].value > 0.95
    assert alike["forgetting_quality"].value > 3 * apart["forgetting_quality"].value
    few = measure_ensembles(Ensembles({"forget": rng.normal(size=(3, 5))}, {"forget": rng.normal(size=(3, 5))}), rng)
    assert set(few) == {"klom_forget", "klom_forget_p95"}  # U-LiRA and quality need four
