"""Small views of the digits, small models for them, and one step of a method by hand."""

import copy
from dataclasses import replace
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F

from fedsim.data.config import DataConfig
from fedsim.data.datasets import load_dataset
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from unlearning.api.registry import load_unlearning
from unlearning.api.view import View

DIGIT = 3


@cache
def digits():
    return load_dataset(DataConfig(name="digits"), seed=0)


def view(rows, part="train", dtype=torch.float32):
    x, y = (torch.from_numpy(getattr(digits(), f"{array}_{part}")[rows]) for array in "xy")
    return View(x, y, digits().mean, digits().std, dtype)


def few(num_forget=40, num_retain=75, dtype=torch.float32):
    """The first samples: 75 leaves a batch of 11 at the end, and in batches of 37 one of a single sample."""
    forget, retain = slice(0, num_forget), slice(num_forget, num_forget + num_retain)
    unseen = view(slice(0, 100), "test", dtype)
    first, second = (guided(view(rows, dtype=dtype)) for rows in (forget, retain))
    return replace(first, unseen=unseen), second


def guided(samples):
    """Return a view with what further models would tell of it."""
    draws = torch.Generator().manual_seed(len(samples))
    shift, oracle = (torch.randn(len(samples), 10, generator=draws).to(samples.dtype) for _ in range(2))
    return replace(samples, shift=shift, oracle=oracle)


def of_class(digit=DIGIT, part="train"):
    is_class = getattr(digits(), f"y_{part}") == digit
    return view(is_class, part), view(~is_class, part)


def new_model(name="cnn", norm=None, dtype=torch.float32, seed=0, **options):
    return build_model(ModelConfig(name=name, norm=norm, **options), (1, 8, 8), 10, seed).to(dtype)


def train(model, samples, epochs, seed=0, lr=0.05):
    rng, optimizer = np.random.default_rng(seed), torch.optim.SGD(model.parameters(), lr, momentum=0.9)
    for _ in range(epochs):
        model.train()
        for x, y in samples.batches(64, rng):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    return model.eval()


def apply(name, model, forget, retain, seed=0, **options):
    """Run a method on a copy."""
    method = load_unlearning(name)
    config = method.config(name=name, **options)
    with torch.set_grad_enabled(method.needs.gradients):
        return method.unlearn(copy.deepcopy(model), forget, retain, config, np.random.default_rng(seed))  # type: ignore[call-arg]


def assert_same_bits(first, second, names=None):
    a, b = (model.state_dict() for model in (first, second))
    assert a.keys() == b.keys()
    for name in a if names is None else names:
        assert torch.equal(a[name], b[name]), name


def differs(first, second):
    """The names of the tensors that are not the same."""
    a, b = (model.state_dict() for model in (first, second))
    return {name for name in a if not torch.equal(a[name], b[name])}


def gradient(model, loss):
    return dict(zip(dict(model.named_parameters()), torch.autograd.grad(loss, list(model.parameters())), strict=True))


def accuracy(model, samples):
    model.eval()
    with torch.no_grad():
        x, y = samples.all()
        return float((model(x).argmax(1) == y).float().mean())


ONE_STEP = {"epochs": 1, "batch_size": 1000, "momentum": 0, "weight_decay": 0, "lr": 0.1}

HARD = {"epochs": 2, "batch_size": 37, "momentum": 0.9, "weight_decay": 5e-4, "lr": 0.05}


def assert_one_step(result, model, gradients, lr=0.1):
    start = dict(model.named_parameters())
    for name, value in result.named_parameters():
        torch.testing.assert_close(value, start[name] - lr * gradients[name], rtol=1e-10, atol=1e-12)


@torch.no_grad()
def logits(model, view):
    return model.eval()(view.all()[0])


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
