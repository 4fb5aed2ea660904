"""Factors of learning rates against torch's schedulers, and what configurations make of them."""

import pytest
import torch
from torch.optim import lr_scheduler

from fedsim.config.resolve import parse_override, resolve
from fedsim.config.schedule import Constant, Cosine, ExponentialDecay, ServerConfig, Steps
from fedsim.errors import FedsimError
from fedsim.privacy.address import Secrets


def rates(scheduler: type[lr_scheduler.LRScheduler], rounds: int, **options: object) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.5)
    schedule = scheduler(optimizer, **options)
    found = []
    for _ in range(rounds):
        found.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return found


@pytest.mark.parametrize(
    ("ours", "theirs", "options"),
    [
        (Steps(at=(2, 5), multiply=0.1), lr_scheduler.MultiStepLR, {"milestones": [2, 5], "gamma": 0.1}),
        (Cosine(rounds=8), lr_scheduler.CosineAnnealingLR, {"T_max": 8}),
        (Cosine(rounds=8, end=0.2), lr_scheduler.CosineAnnealingLR, {"T_max": 8, "eta_min": 0.1}),
        (ExponentialDecay(decay=0.7), lr_scheduler.ExponentialLR, {"gamma": 0.7}),
        (Constant(), lr_scheduler.LambdaLR, {"lr_lambda": lambda epoch: 1}),
    ],
)
def test_factors_are_torchs(ours, theirs, options) -> None:
    assert [0.5 * ours.factor(t) for t in range(1, 9)] == pytest.approx(rates(theirs, 8, **options))


def test_warm_up_rises_linearly_and_multiplies_the_schedule() -> None:
    assert [Constant(warmup=4).factor(t) for t in range(1, 7)] == [0.25, 0.5, 0.75, 1, 1, 1]
    both = ExponentialDecay(decay=0.5, warmup=2)
    assert [both.factor(t) for t in (1, 2, 3)] == [0.5, 0.5, 0.25]


def test_outside_of_rounds_and_after_the_end() -> None:
    assert Cosine(rounds=4, warmup=3).factor(0) == 1
    assert [Cosine(rounds=4, end=0.3).factor(t) for t in (5, 50)] == pytest.approx([0.3, 0.3])


def test_a_cosine_ends_with_the_run_and_stays_when_it_grows() -> None:
    config = resolve({"rounds": 7, "training.schedule": "cosine"})
    assert isinstance(config.training.schedule, Cosine)
    assert config.training.schedule.rounds == 7
    longer = resolve(config.model_dump(mode="json"), {"rounds": 20})
    assert longer.training == config.training
    assert resolve({"server.schedule.name": "cosine", "rounds": 3}).server.lr_at(3) == pytest.approx(0.25)


def test_another_name_drops_the_options_of_the_old_one() -> None:
    steps = {"training": {"schedule": {"name": "steps", "at": [3], "warmup": 1}}}
    assert resolve(steps, {"training.schedule.name": "cosine"}).training.schedule == Cosine(rounds=20)
    given = dict(map(parse_override, ["training.schedule.name=steps", "training.schedule.at=[1,2]"]))
    assert resolve(given).training.lr_at(3) == pytest.approx(0.001)


@pytest.mark.parametrize(
    ("given", "line"),
    [
        ({"training.schedule": "cosin"}, "no schedule 'cosin'; did you mean 'cosine'"),
        (
            {"training.schedule.name": "steps", "training.schedule.at": [0]},
            "training.schedule.at.0: must be at least 1",
        ),
        ({"training.schedule.end": 0.1}, "training.schedule.end: no such key"),
        ({"training.schedule.name": "exponential", "training.schedule.decay": 2}, "must be at most 1"),
        ({"training.nesterov": True}, "nesterov: needs optimizer=sgd and momentum above 0"),
        ({"server.lr": 0}, "server.lr: must be greater than 0"),
    ],
)
def test_mistakes_are_one_line(given, line) -> None:
    with pytest.raises(FedsimError, match=line.replace("(", r"\(")) as told:
        resolve(given)
    assert "\n" not in str(told.value)


def test_recipes_without_them_are_what_they_were() -> None:
    plain = resolve({})
    assert not any(key.startswith(("training.schedule", "training.nesterov", "server", "data.folder"))
                   for key in plain.recipe())  # fmt: skip
    assert plain.server == ServerConfig()
    changed = resolve({"server.lr": 0.5, "training.schedule": "cosine"})
    assert {key: value for key, value in changed.recipe().items() if key not in plain.recipe()} == {
        "server.lr": 0.5, "training.schedule.name": "cosine", "training.schedule.rounds": 20,
        "training.schedule.end": 0.0,
    }  # fmt: skip
    assert Secrets(plain).key != Secrets(changed).key
