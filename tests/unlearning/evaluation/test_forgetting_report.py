"""The report on models made by hand: an oracle, an original that remembers, copies and failures."""

import json
from dataclasses import replace

import numpy as np
import pytest
from pydantic import TypeAdapter

from unlearning.evaluation.catalogue import METRICS, many_oracle_metrics
from unlearning.evaluation.constant_predictor import constant_logits
from unlearning.evaluation.divergence import js_divergence
from unlearning.evaluation.ensembles import Ensembles, measure_ensembles
from unlearning.evaluation.flags import collapsed
from unlearning.evaluation.measure import measure_forgetting
from unlearning.evaluation.ranking import rank, rank_reports
from unlearning.evaluation.relearn import Relearn
from unlearning.evaluation.report import ForgettingReport, Splits, Trio

CLASSES = 4
SIZES = {"forget": 120, "retain": 200, "test": 300, "unseen": 300}
LABELS = Splits(**{name: np.arange(size) % CLASSES for name, size in SIZES.items()})


def model(seed, **strength):
    """Logits with the true class `strength` above noise, by set; 1 unless said."""
    rng = np.random.default_rng(seed)
    return Splits(
        **{
            name: rng.normal(size=(size, CLASSES)) + strength.get(name, 1.0) * np.eye(CLASSES)[getattr(LABELS, name)]
            for name, size in SIZES.items()
        }
    )


ORIGINAL = model(0, forget=6, retain=6)
ORACLES = [model(seed, retain=6) for seed in (1, 2, 3)]


def measure(method, unlearned, oracles=ORACLES, floors=False, **more):
    rng = np.random.default_rng(7)
    return measure_forgetting(method, LABELS, unlearned, ORIGINAL, oracles, rng, floors=floors, **more)


@pytest.fixture(scope="module")
def twin():
    """A model made as the oracles are."""
    return measure("twin", model(4, retain=6), floors=True)


@pytest.fixture(scope="module")
def untouched():
    return measure("untouched", ORIGINAL)


def test_an_original_that_was_left_alone_is_caught(untouched):
    metrics = untouched.metrics
    assert metrics["mia_auc"].value == metrics["mia_auc"].original > 0.9
    assert metrics["mia_auc"].oracle == pytest.approx(0.5, abs=0.06)
    assert metrics["average_gap"].value == metrics["average_gap"].original > 20
    assert metrics["accuracy_forget"].gap == 1 - metrics["accuracy_forget"].oracle > 0.3
    assert metrics["js_test"].value == np.mean([js_divergence(ORIGINAL.test, o.test) for o in ORACLES])
    assert untouched.unlearned.collapsed == collapsed(ORIGINAL.test) != collapsed(ORIGINAL.forget)
    mia = metrics["mia_logistic"].value
    assert metrics["nomus"].value == pytest.approx((metrics["accuracy_test"].value + 1 - 2 * abs(mia - 0.5)) / 2)
    assert untouched.unlearned == untouched.original
    assert untouched.unlearned.attacks["mia_auc"].sign == -1
    assert untouched.flags == []


def test_a_model_like_the_oracles_is_as_far_from_them_as_they_are(twin):
    for name in ("average_gap", "js_forget", "js_test", "activation_forget", "tug_of_war"):
        m = twin.metrics[name]
        assert abs(m.gap) < 6 * m.oracle_sd + 0.02 * METRICS[name].high, name
    assert abs(twin.metrics["mia_auc"].value - 0.5) < 3 * twin.metrics["mia_auc"].standard_error
    assert twin.metrics["js_forget"].value < twin.metrics["js_forget"].original
    assert twin.flags == []


def test_an_oracle_has_no_distance_to_itself():
    metrics = measure("oracle", ORACLES[0], ORACLES[:1]).metrics
    assert metrics["average_gap"].value == metrics["activation_forget"].value == 0
    assert metrics["js_forget"].value == pytest.approx(0, abs=1e-12)
    assert metrics["tug_of_war"].value == 1
    assert metrics["js_forget"].oracle is None
    assert "one oracle" in metrics["js_forget"].note


def test_every_metric_is_there_and_says_what_it_lacks(twin):
    assert list(twin.metrics) == list(METRICS)
    for name, oracles in many_oracle_metrics().items():
        assert twin.metrics[name].value is None
        assert twin.metrics[name].note == f"needs {oracles} oracles and as many unlearned models; got 1"
    assert twin.metrics["relearn_steps"].note == "not measured"
    assert twin.sizes == {**SIZES, "matched": 120}
    for name, m in twin.metrics.items():
        if m.value is not None:
            assert METRICS[name].low <= m.value <= (METRICS[name].high or np.inf), name


def test_it_goes_through_json(twin):
    text = json.dumps(twin.to_dict(), allow_nan=False)
    back = json.loads(text)
    assert back.pop("flags") == []
    assert TypeAdapter(ForgettingReport).validate_python(back) == twin


def test_the_same_state_of_the_generator_gives_the_same_report(twin):
    assert measure("twin", model(4, retain=6), floors=True) == twin


def test_floors_change_nothing_but_themselves(twin):
    without = measure("twin", model(4, retain=6))
    assert without.values() == twin.values()
    for name in ("mia_auc", "mia_threshold", "mia_logistic"):
        attack = twin.unlearned.attacks[name]
        assert without.metrics[name].null is without.unlearned.attacks[name].floor is None
        assert abs(attack.floor.mean - attack.chance) < 5 * attack.standard_error


def test_damage_is_flagged():
    damaged = measure("ascent", model(5, forget=-3, retain=6))
    assert damaged.flags == ["over-forgotten"]
    assert damaged.unlearned.attacks["mia_auc"].sign == 1
    assert damaged.metrics["mia_auc"].value < 0.2
    retain = LABELS.retain
    constant = Splits(**{name: constant_logits(retain, CLASSES, size) for name, size in SIZES.items()})
    report = measure("constant", constant)
    assert report.flags == ["collapsed"]
    assert report.metrics["nomus"].value == pytest.approx((1 / CLASSES + 1) / 2, abs=0.06)  # card, trap T3


def test_a_diverged_model_has_a_report_and_comes_last(twin):
    broken = replace(ORACLES[0], test=np.full((300, CLASSES), np.nan))
    report = measure("broken", broken)
    assert report.diverged
    assert report.flags == ["diverged"]
    assert report.unlearned is None
    assert all(m.value is None and m.note for m in report.metrics.values())
    assert report.metrics["accuracy_test"].oracle == twin.metrics["accuracy_test"].oracle
    json.dumps(report.to_dict(), allow_nan=False)
    assert [place.method for place in rank_reports([report, twin])] == ["twin", "broken"]


def test_a_class_that_never_seen_data_lack_leaves_no_attack():
    labels = replace(LABELS, forget=np.zeros(120, int), unseen=np.ones(300, int))
    report = measure_forgetting("m", labels, ORIGINAL, ORIGINAL, ORACLES, np.random.default_rng(0))
    assert report.metrics["mia_auc"].value is None
    assert "too few never-seen samples" in report.metrics["nomus"].note
    assert report.metrics["average_gap"].value is not None
    assert report.sizes["matched"] == 0
    with pytest.raises(ValueError, match="no oracle"):
        measure("m", ORIGINAL, [])


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


def test_costs():
    def after(steps, reached=True):
        return Relearn(steps, reached, 1.0, 0.1, "loss", 0.1)

    report = measure(
        "m", ORIGINAL, relearns=Trio(after(5), after(2), after(10, reached=False)), seconds=Trio(2.0, 30.0, 20.0)
    )
    assert report.metrics["relearn_steps"].gap == -5
    assert report.metrics["relearn_ratio"].value is None
    assert report.metrics["relearn_steps"].note == "not reached in the steps given: oracle"
    assert report.metrics["run_time_efficiency"].value == 10


def test_ranking_is_by_distance_and_by_nothing_else(twin, untouched):
    overdone = measure("overdone", model(5, forget=-3, retain=6))  # the lowest forget accuracy of all
    places = rank_reports([untouched, overdone, twin])
    assert [p.method for p in places] == ["twin", "untouched", "overdone"]
    assert places[2].flags == ("over-forgotten",)
    assert overdone.metrics["accuracy_forget"].value < twin.metrics["accuracy_forget"].value
    with pytest.raises(ValueError, match=r"accuracy_forget.*no distance to the oracle"):
        rank_reports([twin], by="accuracy_forget")


def test_places_and_ties():
    places = rank({"far": [9.0, 9.1, 9.2], "b": [1.0, 2.0, 3.0], "a": [1.5, 2.0, 2.5], "lost": [0.0, None]})
    assert [(p.method, p.place, p.as_good_as_first) for p in places] == [
        ("a", 1, True), ("b", 1, True), ("far", 3, False), ("lost", 4, False),
    ]  # fmt: skip
    assert rank({}) == []
