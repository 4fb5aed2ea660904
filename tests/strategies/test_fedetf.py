import pytest
import torch

from fedsim.errors import FedsimError
from fedsim.federated.types import Batch, Extras
from fedsim.models.etf import ideal_angle, pairwise_angles
from tests.strategies.small_runs import assert_same_bits, begin, finished


def test_the_loss_is_cross_entropy_against_the_fixed_classifier():
    run = begin("fedetf", {"model.norm": "none", "strategy.norm": 2.0})
    client, etf = run.simulation.worker.client, run.simulation.server.etf
    x, y = torch.randn(5, 1, 8, 8), torch.tensor([0, 3, 3, 9, 1])
    params = {name: value.clone().requires_grad_() for name, value in run.tensors.items()}
    loss, _ = client.loss(params, {}, Extras(params, {"etf": etf}), Batch(x, y))
    model = run.simulation.new_model(run.simulation.config)
    logits = model.features(x) @ etf.T
    expected = torch.stack([torch.logsumexp(row, 0) - row[label] for row, label in zip(logits, y, strict=True)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    assert all(g.abs().sum() > 0 for g in torch.autograd.grad(loss, list(params.values())))


@pytest.mark.parametrize("sparsity", [0.0, 0.5])
def test_the_classifier_is_a_frame_that_nobody_trains_or_sends_back(sparsity):
    run = begin("fedetf", {"strategy.sparsity": sparsity, "strategy.norm": 0.5})
    before = run.simulation.server.etf.clone()
    run.advance(3)
    etf = run.simulation.server.etf
    assert torch.equal(etf, before)
    assert (pairwise_angles(etf) - ideal_angle(10)).abs().max() < 0.01
    torch.testing.assert_close(etf.norm(dim=1), torch.full((10,), 0.5))
    assert int((etf == 0).sum()) == int(sparsity * etf.numel())
    assert not [name for name in run.tensors if name.startswith("classifier.")]
    exported = run.simulation.server.export(run.tensors)
    assert torch.equal(exported["classifier.weight"], etf)
    assert not exported["classifier.bias"].any()


def test_its_features_are_those_of_fedloge_with_the_same_frame():
    # The heads that FedLoGe trains beside the features must not move them.
    setting = {"clients": 5, "rounds": 3}
    loge = finished("fedloge", {**setting, "strategy.sparsity": 0.5, "strategy.etf_norm": 1.5}).tensors
    etf = finished("fedetf", {**setting, "strategy.sparsity": 0.5, "strategy.norm": 1.5}).tensors
    assert_same_bits({name: loge[name] for name in etf}, etf)


def test_a_frame_that_cannot_exist_is_refused():
    with pytest.raises(FedsimError, match="sparsity"):
        begin("fedetf", {"strategy.sparsity": 0.9})
