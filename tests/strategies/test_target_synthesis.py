"""The synthesis of TARGET against its formulas."""

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from strategies.target_synthesis import (
    Generator,
    Space,
    Statistics,
    SynthesisConfig,
    _Synthesis,
    boundary_loss,
    initialise,
    synthesize,
)

SHAPE = (1, 8, 8)
SMALL = {
    "images": 16, "rounds": 2, "batch": 8, "steps": 3, "warmup": 0, "critic_steps": 2, "noise_dim": 6, "width": 4,
}  # fmt: skip


def model(seed=0):
    """Return a network with batch norm whose running statistics are not those of a new one."""
    built = build_model(ModelConfig(name="cnn", norm="batch", width=4), SHAPE, 6, seed)
    with torch.no_grad():
        built.train()(torch.randn(64, *SHAPE, generator=torch.Generator().manual_seed(1)))
    return built.eval()


def space(augment="none"):
    return Space(SHAPE, torch.tensor([0.3]), torch.tensor([0.5]), augment)


CLASSES = torch.tensor([1, 3, 4])


def synthesis(**changes):
    return _Synthesis(model(), model(1), CLASSES, space(), SynthesisConfig(**{**SMALL, **changes}), (0, 1))


def test_boundary_loss_counts_only_where_the_two_differ():
    logits = torch.tensor([[2.0, 0, 0], [0, 3.0, 0], [0, 0, 1.0]])
    critic = torch.tensor([[1.0, 0, 0], [0, 1.0, 0], [2.0, 0, 0]])  # agrees on rows 0 and 1
    p, q = logits.softmax(1), critic.softmax(1)
    kl = (p * (p / q).log()).sum(1)
    assert boundary_loss(logits, critic, "disagree") == pytest.approx(float(-kl[2] / 3))
    assert boundary_loss(logits, critic, "agree") == pytest.approx(float(-(kl[0] + kl[1]) / 3))
    rng = torch.Generator().manual_seed(0)
    for _ in range(20):
        a, b = torch.randn(5, 4, generator=rng), torch.randn(5, 4, generator=rng)
        for boundary in ("disagree", "agree"):
            assert boundary_loss(a, b, boundary) <= 0
            assert boundary_loss(a, a, boundary) == 0


def batch_statistics(network, x):
    """Return the mean and biased variance of the inputs of each batch-norm layer, by running the layers one by one."""
    found = []
    for layer in network.features:
        if isinstance(layer, nn.BatchNorm2d):
            rows = x.transpose(0, 1).flatten(1)
            found.append((rows.mean(1), ((rows - rows.mean(1, keepdim=True)) ** 2).mean(1)))
        x = layer(x)
    return found


def test_statistics_loss_is_the_distance_to_the_running_statistics():
    network, x = model().requires_grad_(False), torch.randn(16, *SHAPE)
    expected = sum(
        torch.linalg.vector_norm(mean - layer.running_mean) + torch.linalg.vector_norm(var - layer.running_var)
        for (mean, var), layer in zip(batch_statistics(network, x), layers(network), strict=True)
    )
    with Statistics(network) as statistics:
        network(x)
        assert float(statistics.loss(0.0)) == pytest.approx(float(expected), rel=1e-5)


def layers(network):
    return [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]


def test_statistics_loss_is_zero_at_the_batchs_own_and_a_shift_is_its_length():
    network, x = model().requires_grad_(False), torch.randn(16, *SHAPE)
    # Layer by layer, as setting the statistics of one changes the inputs of the next.
    for number, layer in enumerate(layers(network)):
        mean, var = batch_statistics(network, x)[number]
        layer.running_mean.copy_(mean)
        layer.running_var.copy_(var)
    with Statistics(network) as statistics:
        network(x)
        assert float(statistics.loss(0.0)) <= 1e-5
    d = torch.tensor([0.3, -0.4, 0.0, 1.2])
    layers(network)[-1].running_mean[:4] += d  # the last layer's statistics are no other layer's inputs
    with Statistics(network) as statistics:
        network(x)
        assert float(statistics.loss(0.0)) == pytest.approx(float(d.norm()), abs=1e-5)


def test_momentum_at_the_current_statistics_keeps_the_value_and_a_tenth_of_the_gradient():
    network = model()
    gradients, values = [], []
    for momentum in (0.0, 0.9):
        x = torch.randn(16, *SHAPE, generator=torch.Generator().manual_seed(3)).requires_grad_()
        with Statistics(network) as statistics:
            network(x)
            statistics.update(0.9)  # the first one takes them as they are
            values.append(statistics.loss(momentum))
            gradients.append(torch.autograd.grad(values[-1], x)[0])
    assert float(values[0].detach()) == pytest.approx(float(values[1].detach()), rel=1e-5)
    torch.testing.assert_close(gradients[1], 0.1 * gradients[0], rtol=1e-4, atol=1e-6)


def test_running_means_move_by_a_tenth():
    network = model()
    with Statistics(network) as statistics:
        for _ in range(2):
            statistics.inputs.clear()
            network(torch.randn(16, *SHAPE))
            first = statistics.running or [tuple(v.detach() for v in pair) for pair in statistics.inputs]
            newest = statistics.inputs
            statistics.update(0.9)
        for (mean, _), (old, _), (new, _) in zip(statistics.running, first, newest, strict=True):
            torch.testing.assert_close(mean, 0.9 * old + 0.1 * new.detach())


def test_no_hook_is_left_behind():
    work = synthesis()
    work.run(lambda: None)
    assert not any(layer._forward_pre_hooks for layer in work.model.modules())
    with pytest.raises(RuntimeError), Statistics(work.model):
        work.model(torch.zeros(2, 3, 8, 8))  # wrong shape
    assert not any(layer._forward_pre_hooks for layer in work.model.modules())


def test_one_step_of_maml_has_the_plain_gradient_and_the_generators_buffers_never_change():
    work = synthesis(steps=1, rounds=1, images=8)
    before = copy.deepcopy(work.generator)
    torch_rng = work.torch_rng.get_state()
    with work.statistics:
        work.generate()
    after = dict(work.generator.named_buffers())
    for name, value in before.named_buffers():
        assert torch.equal(after[name], value)
    # By hand: the same z and y, the loss written out, the gradient at the generator itself.
    draws = torch.Generator()
    draws.set_state(torch_rng)
    z = torch.randn(8, 6, generator=draws)
    y = torch.randint(3, (8,), generator=draws)
    x = (before.train()(z) - 0.3) / 0.5
    network = model()
    loss = 0.5 * F.cross_entropy(network(x)[:, CLASSES], y)
    for (mean, var), layer in zip(batch_statistics(network, x), layers(network), strict=True):
        loss = loss + 10 * ((mean - layer.running_mean).norm() + (var - layer.running_var).norm())
    expected = torch.autograd.grad(loss, list(before.parameters()))
    for own, value in zip(work.generator.parameters(), expected, strict=True):
        torch.testing.assert_close(own.grad, value, rtol=1e-3, atol=1e-4)


def test_reptile_moves_towards_where_the_copy_got():
    work = synthesis(meta="reptile", steps=1, rounds=1, images=8)
    before = [p.detach().clone() for p in work.generator.parameters()]
    with work.statistics:
        work.generate()
    # Adam's first step has the length of its rate in every coordinate: the copy has moved by lr against its gradient.
    for own in work.generator.parameters():
        moved = own.grad[own.grad.abs() > 0] / 67
        torch.testing.assert_close(moved.abs(), torch.full_like(moved, 0.002), rtol=2e-2, atol=1e-6)
    assert any(not torch.equal(own, old) for own, old in zip(work.generator.parameters(), before, strict=True))


def test_images_are_bytes_and_there_are_as_many_as_asked():
    made = synthesize(model(), model(1), CLASSES, space(), SynthesisConfig(**SMALL), (0, 1))
    assert made.images.dtype == torch.uint8
    assert made.images.shape == (16, *SHAPE)
    one = synthesize(
        model(), model(1), CLASSES, space(), SynthesisConfig(**{**SMALL, "rounds": 1, "images": 8}), (0, 1)
    )
    assert len(one.images) == 8
    # The last ones are kept: those of the only round are not among the last eight of two.
    last = synthesize(model(), model(1), CLASSES, space(), SynthesisConfig(**{**SMALL, "images": 8}), (0, 1))
    assert torch.equal(last.images, made.images[8:])
    assert float(made.histogram.sum()) == pytest.approx(1.0)


def test_the_best_step_is_kept_rounded_down():
    work = synthesis(rounds=1, images=8, steps=4)
    seen, losses = [], []
    read, loss = Space.read, work.loss

    def spy(x, y):
        value = loss(x, y)
        seen.append((x.detach() * 0.5 + 0.3).clone())
        losses.append(float(value.detach()))
        return value

    work.loss = spy
    with work.statistics:
        images = work.generate()
    expected = (255 * seen[int(np.argmin(losses))].double()).floor()
    assert (images.double() - expected).abs().max() <= 1  # x was normalised and back
    assert ((images.double() - expected) != 0).float().mean() < 0.01
    assert read is Space.read


def test_synthesis_repeats_and_changes_nothing_it_is_given():
    network = model()
    before = copy.deepcopy(network.state_dict())
    first, again, other = (
        synthesize(network, model(1), CLASSES, space("crop_flip"), SynthesisConfig(**SMALL), (0, stage)).images
        for stage in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name])
    assert not network.training
    assert all(p.grad is None for p in network.parameters())


def test_a_critic_with_dropout_draws_from_an_address_too():
    config = ModelConfig(name="mlp", norm="batch", hidden=(8,), dropout=0.5)
    images = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        network, critic = (build_model(config, SHAPE, 6, 0) for _ in range(2))
        images.append(synthesize(network, critic, CLASSES, space(), SynthesisConfig(**SMALL), (0, 1)).images)
    assert torch.equal(*images)


def test_the_critic_is_trained_before_its_loss_counts():
    """With a warm-up of one round of three the loss is in use in the third only."""
    work = synthesis(rounds=3, images=24, warmup=1)
    counted = []
    generate = work.generate
    work.generate = lambda: counted.append(work.critic_is_trained) or generate()
    work.run(lambda: None)
    assert counted == [False, False, True]


def test_the_critic_starts_anew_as_a_whole():
    network = model()
    before = copy.deepcopy(network.state_dict())
    torch.manual_seed(0)
    initialise(network)
    after = network.state_dict()
    for name in before:
        assert not torch.equal(after[name], before[name]) or name.endswith("bias")
    assert after["features.1.running_var"].eq(1).all()
    assert after["features.1.weight"].std() < 0.1


def test_generators_size_is_the_authors():
    def count(width, side):
        return sum(p.numel() for p in Generator(256, width, (3, side, side)).parameters())

    assert count(64, 32) == 2_328_899
    assert count(64, 64) == 8_644_931
    images = Generator(6, 4, SHAPE)(torch.randn(5, 6)).detach()
    assert images.shape == (5, *SHAPE)
    assert 0 < float(images.min()) < float(images.max()) < 1


def test_a_loss_that_is_no_number_stops_it():
    work = synthesis()
    work.loss = lambda x, y: x.sum() * float("nan")
    with pytest.raises(FloatingPointError, match="no longer a number"):
        work.run(lambda: None)


def test_more_images_than_are_made_are_refused():
    with pytest.raises(ValueError, match="2 rounds of 8 make 16 images, fewer than images=17"):
        SynthesisConfig(**{**SMALL, "images": 17})
