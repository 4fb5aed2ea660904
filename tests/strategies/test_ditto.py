import copy

import torch
import torch.nn.functional as F

from fedsim.flower.records import Tensors
from tests.strategies.small_runs import assert_same_bits, batches_of, begin, finished, names_sent


def test_the_global_path_is_fedavg():
    assert_same_bits(finished("ditto").tensors, finished("fedavg").tensors)


def test_personal_models_never_travel():
    run = begin("ditto")
    assert names_sent(run) == set(run.simulation.server.initial())


def test_personal_models_are_sgd_with_the_pull_written_out():
    penalty, config = 0.6, {"clients": 2, "rounds": 2, "training.precision": "float64"}
    run = begin("ditto", {**config, "strategy.penalty": penalty, "strategy.personal_epochs": 2})
    personal = [run.simulation.new_model(run.simulation.config) for _ in range(2)]
    for server_round in (1, 2):
        anchor = copy.deepcopy(run.tensors)  # w_t, before the round
        run.advance(1)
        for client, model in enumerate(personal):
            optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.5)
            for x, y in batches_of(run, client, server_round, phase=1, epochs=2):
                optimizer.zero_grad()
                pull = sum((value - anchor[name]).square().sum() for name, value in model.named_parameters())
                (F.cross_entropy(model(x), y) + penalty / 2 * pull).backward()
                optimizer.step()
            kept = run.personal(client)
            for name, value in model.state_dict().items():
                torch.testing.assert_close(kept[f"personal.{name}"], value, rtol=1e-9, atol=1e-11)


def test_a_strong_pull_keeps_personal_models_near_the_global_one():
    def distance(penalty: float) -> float:
        config = {"rounds": 2, "training.momentum": 0.0, "strategy.personal_epochs": 5, "strategy.penalty": penalty}
        run = begin("ditto", config)
        run.advance(1)
        anchor: Tensors = run.tensors  # w_t of the round to come
        run.advance(1)
        names = run.simulation.server.first.params
        return sum(
            float((run.personal(k)[f"personal.{n}"] - anchor[n]).square().sum()) for k in range(4) for n in names
        )

    # A step of lr * penalty = 0.9 leaves a tenth of the distance to w_t, whatever it was.
    assert distance(9.0) < 0.1 * distance(0.0)
    assert distance(9.0) < distance(1.0) < distance(0.0)
