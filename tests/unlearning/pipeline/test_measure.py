"""What is measured, on models made by hand: an oracle, an original that remembers, copies and failures."""

from dataclasses import replace

import numpy as np
import pytest

from unlearning.evaluation import personal
from unlearning.evaluation.catalogue import METRICS
from unlearning.evaluation.constant_predictor import constant_logits
from unlearning.evaluation.divergence import js_divergence
from unlearning.evaluation.flags import collapsed
from unlearning.evaluation.relearn import Relearn
from unlearning.evaluation.report import Splits
from unlearning.pipeline.comparison import RANK, make_rows
from unlearning.pipeline.judgement import Contestant
from unlearning.pipeline.measure import Measured, measure_outputs

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


DISTANCES = ("average_gap", "js_forget", "js_test", "activation_forget", "tug_of_war")


def measure(outputs, oracle=None, again=None, labels=LABELS, floors=False) -> Measured:
    return measure_outputs(labels, outputs, np.random.default_rng(7), again, oracle, floors=floors)


@pytest.fixture(scope="module")
def oracles():
    return [measure(outputs) for outputs in ORACLES]


@pytest.fixture(scope="module")
def twin(oracles):
    """A model made as the oracles are, with noise floors."""
    return measure(model(4, retain=6), oracles[0], floors=True)


@pytest.fixture(scope="module")
def untouched(oracles):
    return measure(ORIGINAL, oracles[0])


@pytest.fixture(scope="module")
def overdone(oracles):
    """The lowest forget accuracy of all."""
    return measure(model(5, forget=-3, retain=6), oracles[0])


def test_an_original_that_was_left_alone_is_caught(untouched, oracles):
    values, target = untouched.values, oracles[0].values
    assert values["mia_auc"] > 0.9
    assert target["mia_auc"] == pytest.approx(0.5, abs=0.06)
    assert values["average_gap"] > 20
    assert values["accuracy_forget"] - target["accuracy_forget"] == 1 - target["accuracy_forget"] > 0.3
    assert values["js_test"] == js_divergence(ORIGINAL.test, ORACLES[0].test)
    assert untouched.facts.collapsed == collapsed(ORIGINAL.test) != collapsed(ORIGINAL.forget)
    guessed = abs(values["mia_logistic"] - 0.5)
    assert values["nomus"] == pytest.approx((values["accuracy_test"] + 1 - 2 * guessed) / 2)
    assert untouched.facts.attacks["mia_auc"].sign == -1
    assert untouched.flags == []


def test_a_model_like_the_oracles_is_as_far_from_them_as_they_are(twin, untouched, oracles):
    for name in DISTANCES:
        mine = np.mean([measure(twin.logits, oracle).values[name] for oracle in oracles])
        among = [measure(a.logits, b).values[name] for a in oracles for b in oracles if a is not b]
        assert abs(mine - np.mean(among)) < 6 * np.std(among, ddof=1) + 0.02 * METRICS[name].high, name
    assert abs(twin.values["mia_auc"] - 0.5) < 3 * twin.facts.attacks["mia_auc"].standard_error
    assert twin.values["js_forget"] < untouched.values["js_forget"]
    assert twin.flags == []


def test_an_oracle_has_no_distance_to_itself(oracles):
    values = measure(ORACLES[0], oracles[0]).values
    assert values["average_gap"] == values["activation_forget"] == 0
    assert values["js_forget"] == pytest.approx(0, abs=1e-12)
    assert values["tug_of_war"] == 1


def test_every_metric_of_one_model_is_there_and_in_its_range(twin):
    inside = {"relearn_steps", "relearn_unseen", "relearn_ratio", "probe_forget", "probe_unseen", "trigger_success"}
    inside |= {"accuracy_forget_bn", "accuracy_unseen_bn", "accuracy_selection", "mia_selection", "selection_gap"}
    elsewhere = inside | {name for name, metric in METRICS.items() if metric.cost}  # these need the model itself
    elsewhere |= {"accuracy_earlier", "relearn_earlier"}  # of requests after others
    elsewhere |= {"accuracy_kept", "h_mean"}  # of classes
    elsewhere |= {metric.name for metric in personal.METRICS}  # of clients' own models
    of_many = {name for name, metric in METRICS.items() if metric.models > 1}
    assert set(twin.values) == set(METRICS) - of_many - elsewhere
    assert {attack.size for attack in twin.facts.attacks.values()} == {120}  # of 120 and 300, equal classes
    for name, value in twin.values.items():
        assert METRICS[name].low <= value <= (METRICS[name].high or np.inf), name


def test_the_same_state_of_the_generator_gives_the_same_numbers(twin, oracles):
    again = measure(model(4, retain=6), oracles[0])
    assert again.values == twin.values  # and floors, of which it has none, change nothing but themselves
    for name, attack in twin.facts.attacks.items():
        assert again.facts.attacks[name] == replace(attack, floor=None)
        assert abs(attack.floor.mean - attack.chance) < 5 * attack.standard_error


def test_damage_is_flagged(overdone, oracles):
    assert overdone.flags == ["over-forgotten"]
    assert overdone.facts.attacks["mia_auc"].sign == 1
    assert overdone.values["mia_auc"] < 0.2
    constant = Splits(**{name: constant_logits(LABELS.retain, CLASSES, size) for name, size in SIZES.items()})
    answered = measure(constant, oracles[0])
    assert answered.flags == ["collapsed"]
    assert answered.values["nomus"] == pytest.approx((1 / CLASSES + 1) / 2, abs=0.06)


def test_a_diverged_model_has_no_numbers_and_comes_last(twin, oracles):
    broken = measure(replace(ORACLES[0], test=np.full((300, CLASSES), np.nan)), oracles[0])
    assert broken.flags == ["diverged"]
    assert broken.facts is None
    assert broken.values == {}
    assert [row.name for row in rows(oracles[0], broken=broken, twin=twin)] == ["oracle", "twin", "broken"]


def test_a_class_that_never_seen_data_lack_leaves_no_attack(oracles):
    labels = replace(LABELS, forget=np.zeros(120, int), unseen=np.ones(300, int))
    oracle = measure(ORACLES[0], labels=labels)
    found = measure(ORIGINAL, oracle, labels=labels)
    assert not found.facts.attacks
    assert not {"mia_auc", "mia_threshold", "mia_logistic", "nomus"} & set(found.values)
    ours, theirs = found.values, oracle.values
    parts = [abs(ours["accuracy_forget"] - theirs["accuracy_forget"])]
    parts += [max(0, theirs[f"accuracy_{name}"] - ours[f"accuracy_{name}"]) for name in ("retain", "test")]
    assert found.values["average_gap"] == pytest.approx(100 * np.mean(parts))


def rows(oracle, seconds=1.0, **rivals):
    contestants = {"oracle": Contestant("oracle", None, [oracle], [10.0], [{}])}
    for name, measured in rivals.items():
        contestants[name] = Contestant("method", "central", [measured], [seconds], [{}])
    return make_rows(contestants, "samples", np.random.default_rng(0))


def test_ranking_is_by_distance_and_by_nothing_else(twin, untouched, overdone, oracles):
    ranked = rows(oracles[0], untouched=untouched, overdone=overdone, twin=twin)
    assert [(row.name, row.place) for row in ranked[1:]] == [("twin", 1), ("untouched", 2), ("overdone", 3)]
    assert ranked[3].flags == {"over-forgotten": 1}
    assert overdone.values["accuracy_forget"] < twin.values["accuracy_forget"]
    assert overdone.values[RANK] > untouched.values[RANK]


def test_costs(oracles):
    def after(steps, reached=True):
        return Relearn(steps, reached, 1.0, 0.1, "loss", 0.1)

    oracle, late = measure(ORACLES[0], again=after(10)), measure(ORACLES[0], again=after(10, reached=False))
    quick = measure(ORIGINAL, oracle, after(5))
    assert (quick.values["relearn_steps"], quick.values["relearn_ratio"]) == (5, 0.5)
    assert late.values["relearn_steps"] == 10  # censored, not left out: it would look quicker than it is
    assert measure(ORIGINAL, late, after(5)).values["relearn_ratio"] == 0.5
    assert rows(oracle, seconds=2.0, quick=quick)[1].mean("time_share") == 0.2
