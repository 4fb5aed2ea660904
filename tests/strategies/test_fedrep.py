import torch

from strategies.fedrep import FedRepClient
from tests.strategies.small_runs import begin, finished, halves, names_sent


def is_head(name):
    return name.startswith("classifier.")


class HeadOnly(FedRepClient):
    def phases(self):
        return super().phases()[:1]


class FeaturesOnly(FedRepClient):
    def phases(self):
        return super().phases()[1:]


def moved_by(client):
    """Return the names of the parameters that a round with this client half moves."""
    with halves("fedrep", client=client):
        run = finished("fedrep", {"clients": 1, "rounds": 1})
    start = dict(run.simulation.new_model(run.simulation.config).named_parameters())
    now = run.tensors | run.personal(0)
    return {name for name, value in start.items() if not torch.equal(now[name], value.detach())}


def test_each_phase_leaves_the_other_half_alone():
    both = moved_by(FedRepClient)
    heads = {name for name in both if is_head(name)}
    assert moved_by(HeadOnly) == heads != set()
    assert moved_by(FeaturesOnly) == both - heads != set()


def test_features_follow_the_trained_head():
    # Head first: features trained against the head of before would come out the same without its phase.
    with halves("fedrep", client=FeaturesOnly):
        alone = finished("fedrep", {"clients": 1, "rounds": 1}).tensors
    after = finished("fedrep", {"clients": 1, "rounds": 1}).tensors
    assert not torch.equal(alone["features.1.weight"], after["features.1.weight"])


def test_the_head_trains_for_its_own_number_of_epochs():
    def head(epochs):
        with halves("fedrep", client=HeadOnly):
            return finished("fedrep", {"clients": 1, "rounds": 1, "strategy.head_epochs": epochs}).personal(0)

    start = begin("fedrep").simulation.worker.client.initial["classifier.weight"]
    assert (head(6)["classifier.weight"] - start).norm() > (head(1)["classifier.weight"] - start).norm() > 0


def test_heads_never_travel_and_are_not_shared():
    run = begin("fedrep")
    sent = names_sent(run)
    assert sent
    assert not any(map(is_head, sent))
    assert not any(map(is_head, run.tensors))
    heads = [run.personal(client)["classifier.weight"] for client in range(4)]
    assert all(not torch.equal(heads[0], other) for other in heads[1:])


def test_there_is_no_global_head_and_clients_predict_with_theirs():
    run = begin("fedrep", {"rounds": 1})
    metrics = run.advance(1)
    assert "clients/accuracy" in metrics
    assert not [name for name in metrics if name.startswith("global")]
