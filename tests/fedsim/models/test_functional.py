from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import stack_module_state, vmap
from torch.nn.functional import cross_entropy

from fedsim.models.base import Classifier
from fedsim.models.config import MODELS
from fedsim.models.functional import FunctionalModel
from tests.fedsim.models.zoo import NUM_CLASSES, VARIANTS, inputs, small_config, small_model

NUM_CLIENTS, BATCH = 3, 4
Tensors = dict[str, Tensor]


def objective(logits: Tensor, features: Tensor, y: Tensor) -> Tensor:
    return cross_entropy(logits, y) + 0.1 * features.square().mean()


def one_by_one(models: list[Classifier], x: Tensor, y: Tensor) -> tuple[Tensor, Tensors, Tensors]:
    """The slow twin: the modules themselves, client after client."""
    losses, grads = [], []
    for model, x_i, y_i in zip(models, x, y, strict=True):
        features = model.features(x_i)
        losses.append(objective(model.classifier(features), features, y_i))
        params = dict(model.named_parameters())
        grads.append(dict(zip(params, torch.autograd.grad(losses[-1], list(params.values())), strict=True)))
    stacked = {key: torch.stack([grad[key] for grad in grads]) for key in grads[0]}
    return torch.stack(losses).detach(), stacked, stacked_buffers(models)


def stacked_buffers(models: list[Classifier]) -> Tensors:
    return {key: torch.stack([dict(m.named_buffers())[key] for m in models]) for key, _ in models[0].named_buffers()}


def all_at_once(models: list[Classifier], x: Tensor, y: Tensor, train: bool) -> tuple[Tensor, Tensors, Tensors]:
    params, buffers = stack_module_state(models)
    view = FunctionalModel(models[0])

    def loss_fn(p: Tensors, b: Tensors, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
        features = view.features(p, b, batch[0], train=train)
        logits = view.classify(p, features)
        return objective(logits, features, batch[1]), logits.argmax(1)

    losses, aux = vmap(loss_fn, in_dims=(0, 0, 0), randomness="different")(params, buffers, (x, y))
    assert aux.shape == (NUM_CLIENTS, BATCH)
    grads = torch.autograd.grad(losses.sum(), list(params.values()))
    return losses.detach(), dict(zip(params, grads, strict=True)), buffers


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize(("name", "norm"), VARIANTS)
def test_a_cohort_at_once_equals_client_after_client(name: str, norm: Any, train: bool) -> None:
    models = [small_model(name, norm, seed=seed).double().train(train) for seed in range(NUM_CLIENTS)]
    x = inputs(name, NUM_CLIENTS, BATCH).double()
    y = torch.arange(NUM_CLIENTS * BATCH).reshape(NUM_CLIENTS, BATCH) % NUM_CLASSES
    before = stacked_buffers(models)

    losses, grads, buffers = all_at_once(models, x, y, train)
    expected = one_by_one(models, x, y)

    for got, want in zip((losses, grads, buffers), expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-9)
    assert all(grad.abs().max() > 0 for key, grad in grads.items() if key.endswith("weight"))
    for key, buffer in buffers.items():
        assert torch.equal(buffer, before[key]) != train
        if key.endswith("num_batches_tracked"):
            assert buffer.dtype == torch.int64
            assert buffer.tolist() == [int(train)] * NUM_CLIENTS


@pytest.mark.parametrize("name", MODELS)
def test_without_vmap_it_equals_the_module(name: str) -> None:
    model = small_model(name).eval()
    x = inputs(name, BATCH)
    view = FunctionalModel(model)
    params, buffers = dict(model.named_parameters()), dict(model.named_buffers())
    assert torch.equal(view.features(params, buffers, x, train=False), model.features(x))
    assert torch.equal(view.logits(params, buffers, x, train=False), model(x))


@pytest.mark.parametrize("name", [name for name, entry in MODELS.items() if "dropout" in entry.options])
def test_clients_of_a_cohort_drop_different_units(name: str) -> None:
    model = small_model(name, dropout=0.5)
    view = FunctionalModel(model)
    params, buffers = stack_module_state([model, model])
    x = torch.stack([inputs(name, BATCH)] * 2)
    forward = vmap(view.logits, in_dims=(0, 0, 0), randomness="different")
    torch.manual_seed(0)
    first, second = forward(params, buffers, x, train=True)
    assert not torch.allclose(first, second)
    first, second = forward(params, buffers, x, train=False)
    torch.testing.assert_close(first, second)


def test_the_view_leaves_the_model_alone_and_ignores_its_later_changes() -> None:
    model = small_model("cnn", "batch").eval()
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    params = {key: tensor.detach() + 1 for key, tensor in model.named_parameters()}
    buffers = {key: tensor.clone() for key, tensor in model.named_buffers()}
    view = FunctionalModel(model)
    x = inputs("cnn", BATCH)
    first = view.logits(params, buffers, x, train=True)
    assert not model.training
    assert all(torch.equal(tensor, before[key]) for key, tensor in model.state_dict().items())
    assert all(int(tensor) == 1 for key, tensor in buffers.items() if key.endswith("num_batches_tracked"))
    torch.nn.init.zeros_(model.classifier.weight)
    assert torch.equal(view.logits(params, buffers, x, train=True), first)


def test_foreign_tensors_are_ignored_and_own_ones_are_required() -> None:
    model = small_model("cnn")
    view = FunctionalModel(model)
    params = dict(model.named_parameters())
    x = inputs("cnn", BATCH)
    body = {key: tensor for key, tensor in params.items() if key.startswith("features.")}
    personal = body | {"aux.weight": torch.ones(2), "features.99.weight": torch.ones(3)}
    assert torch.equal(view.features(personal, {"aux.mean": torch.ones(1)}, x, train=True), model.features(x))
    with pytest.raises(KeyError, match=r"classifier\.weight"):
        view.logits(body, {}, x, train=True)
    lost = next(iter(body))
    with pytest.raises(KeyError, match=lost):
        view.features({key: tensor for key, tensor in body.items() if key != lost}, {}, x, train=True)


def test_the_small_config_reaches_every_option() -> None:
    """Guards the suite itself: a new option must be made small in zoo.py, and dropout switched off for the twins."""
    for name, entry in MODELS.items():
        assert set(entry.options) <= set(small_config(name).options())
