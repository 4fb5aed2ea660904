"""The methods that take gradient steps on a combination of losses: their formulas, limits and masks."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, assert_same_bits, differs, few, gradient, new_model
from unlearning.l1_sparse import penalty_at
from unlearning.parts.blocks import blocks, reset, tail
from unlearning.parts.steps import other_labels, sample
from unlearning.unsir import UnsirConfig, adverse_noise

ONE_STEP = {"epochs": 1, "batch_size": 1000, "momentum": 0, "weight_decay": 0, "lr": 0.1}
HARD = {"epochs": 2, "batch_size": 37, "momentum": 0.9, "weight_decay": 5e-4, "lr": 0.05}


def assert_one_step(result, model, gradients, lr=0.1):
    start = dict(model.named_parameters())
    for name, value in result.named_parameters():
        torch.testing.assert_close(value, start[name] - lr * gradients[name], rtol=1e-10, atol=1e-12)


@pytest.fixture(scope="module")
def case():
    """A model, and in one batch each what is to be forgotten and kept, in float64."""
    return new_model(dtype=torch.float64), *few(dtype=torch.float64)


def test_neggrad_steps_along_the_gradient_of_what_is_below_its_ceiling_in_lengths_of_the_weights(case):
    model, forget, _ = case
    x, y = forget.all()
    with torch.no_grad():
        size = math.sqrt(sum(float(value.square().sum()) for value in model.parameters()))
        middle = float(F.cross_entropy(model(x), y, reduction="none").median()) / math.log(10)
    for ceiling in (1e9, middle):
        losses = F.cross_entropy(model(x), y, reduction="none")
        pushing = losses < ceiling * math.log(10)
        up = gradient(model, losses[pushing].sum() / len(losses))
        length = math.sqrt(sum(float(value.square().sum()) for value in up.values()))
        moved = apply("neggrad", model, forget, None, ceiling=ceiling, epochs=1, batch_size=1000, lr=0.01)
        factor = 0.01 * float(pushing.double().mean()) * size / length
        for name, value in moved.named_parameters():
            torch.testing.assert_close(value, model.get_parameter(name) + factor * up[name])
    still = apply("neggrad", model, forget, None, ceiling=1e-9, epochs=3)
    assert all(torch.equal(value, model.get_parameter(name)) for name, value in still.named_parameters())


def test_neggrad_plus_steps_along_both_gradients(case):
    model, forget, retain = case
    (x, y), (x_f, y_f) = retain.all(), forget.all()
    both = gradient(model, 0.7 * F.cross_entropy(model(x), y) - 0.3 * F.cross_entropy(model(x_f), y_f))
    assert_one_step(apply("neggrad_plus", model, forget, retain, alpha=0.7, ceiling=1e9, **ONE_STEP), model, both)


def test_random_labels_step_along_the_gradient_of_the_relabelled_union(case):
    model, forget, retain = case
    wrong = other_labels(forget.y, 10, np.random.default_rng(0).spawn(1)[0])
    x = torch.cat([forget.all()[0], retain.all()[0]])
    union = gradient(model, F.cross_entropy(model(x), torch.cat([wrong, retain.y])))
    assert_one_step(apply("random_labels", model, forget, retain, **ONE_STEP), model, union)


def test_wrong_labels_are_wrong_and_all_equally_likely():
    y = torch.from_numpy(np.random.default_rng(0).integers(0, 5, 50_000))
    wrong = other_labels(y, 5, np.random.default_rng(1))
    counts = torch.bincount(5 * y + wrong, minlength=25).view(5, 5) / 50_000
    assert counts.diag().eq(0).all()
    # 20 cells of probability 0.05: four standard deviations are 4 sqrt(0.05 * 0.95 / 50,000) = 0.0039
    assert ((counts - 0.05 * (1 - torch.eye(5))).abs() < 0.0039).all()


def test_scrub_steps_away_from_the_teacher_and_then_towards_it(case):
    """By hand: T^2 sum_c p_c log(p_c / q_c) with p, q the teacher's and the student's softmax of logits / T."""
    model, forget, retain = case
    options = ONE_STEP | {"gamma": 0.5, "alpha": 2.0, "temperature": 3.0, "ceiling": 1e9}
    once = apply("scrub", model, forget, retain, **options)  # the teacher's own place: the first pass cannot move
    x, y = retain.all()
    assert_one_step(once, model, gradient(model, 0.5 * F.cross_entropy(model(x), y)))

    def divergence(student, x):
        p, q = ((net(x) / 3).softmax(1) for net in (model, student))
        return 9 * (p.detach() * (p.detach() / q).log()).sum(1).mean()

    for value, slope in zip(once.parameters(), gradient(once, divergence(once, forget.all()[0])).values(), strict=True):
        value.data += 0.1 * slope
    loss = 0.5 * F.cross_entropy(once(x), y) + 2 * divergence(once, x)
    assert_one_step(apply("scrub", model, forget, retain, **(options | {"epochs": 2})), once, gradient(once, loss))


def test_l1_sparse_adds_a_fading_l1_norm(case):
    model, forget, retain = case
    x, y = retain.all()
    norm = sum(parameter.abs().sum() for parameter in model.parameters())
    slope = gradient(model, F.cross_entropy(model(x), y) + 0.01 * norm)
    options = ONE_STEP | {"alpha": 0.01, "free_epochs": 0}
    assert_one_step(apply("l1_sparse", model, forget, retain, **options), model, slope)
    assert [penalty_at(e, 3.0, epochs=5, free_epochs=2) for e in range(5)] == pytest.approx([3, 2, 1, 0, 0])
    assert penalty_at(0, 3.0, epochs=2, free_epochs=2) == 0


def test_bad_teacher_mixes_two_divergences_by_the_sizes_of_the_sets(case):
    """The first step of Adam is lr * sign(gradient); the good teacher's half has no gradient where it starts."""
    model, forget, retain = case
    result = apply("bad_teacher", model, forget, retain, epochs=1, batch_size=1000, lr=0.1, retain_share=1)
    others = np.random.default_rng(0).spawn(1)[0]
    bad = new_model(dtype=torch.float64)
    reset([bad], others)
    x = forget.all()[0]
    p, q = (net(x).softmax(1) for net in (bad, model))
    slope = gradient(model, (p.detach() * (p.detach() / q).log()).sum(1).mean() * 40 / 115)
    for name, value in result.named_parameters():
        start, large = dict(model.named_parameters())[name], slope[name].abs() > 1e-6
        torch.testing.assert_close(value[large], (start - 0.1 * slope[name].sign())[large], rtol=0, atol=1e-3)


@pytest.mark.parametrize("norm", [None, "batch"])
@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("neggrad_plus", {"alpha": 1}),
        ("scrub", {"gamma": 1, "alpha": 0, "max_epochs": 0}),
        ("l1_sparse", {"alpha": 0}),
        ("cf_k", {"blocks": 99}),
        ("not", {"layers": 0}),
        ("msg", {"share": 0, "damping": 1}),
    ],
)
def test_without_its_own_part_a_method_is_fine_tuning_to_the_last_bit(method, options, norm):
    model, views = new_model(norm=norm), few()
    assert_same_bits(apply(method, model, *views, **HARD, **options), apply("finetune", model, *views, **HARD))


def test_salun_with_all_weights_salient_is_random_labels():
    model, views = new_model(norm="batch"), few()
    assert_same_bits(apply("salun", model, *views, threshold=1, **HARD), apply("random_labels", model, *views, **HARD))


def test_salun_moves_the_share_of_weights_with_the_largest_gradient_and_no_other(case):
    """Momentum and weight decay are on."""
    model, forget, retain = case
    result = apply("salun", model, forget, retain, threshold=0.3, **HARD)
    x, y = forget.all()
    slope = torch.cat([g.abs().flatten() for g in gradient(model, F.cross_entropy(model(x), y)).values()])
    before, after = (torch.cat([p.detach().flatten() for p in net.parameters()]) for net in (model, result))
    moved = before != after
    count = round(0.3 * len(slope))
    assert not moved[slope < slope.sort(descending=True).values[count] * 0.999].any()
    assert moved[slope > slope.sort(descending=True).values[count] * 1.001].float().mean() > 0.99


@pytest.mark.parametrize(("name", "norm"), [("cnn", "batch"), ("resnet8", "batch"), ("vit", None)])
@pytest.mark.parametrize("num_blocks", [0, 1, 2])
@pytest.mark.parametrize("method", ["cf_k", "eu_k"])
def test_the_first_blocks_keep_every_bit_and_the_last_all_move(method, name, norm, num_blocks):
    model, views = new_model(name, norm, **({} if name == "cnn" else {"width": 8})), few(9, 38)
    result = apply(method, model, *views, epochs=1, batch_size=37, blocks=num_blocks)
    inside = {id(tensor) for module in tail(model, num_blocks) for tensor in module.state_dict(keep_vars=True).values()}
    free = {tensor for tensor, value in model.state_dict(keep_vars=True).items() if id(value) in inside}
    assert differs(result, model) == free
    assert len(blocks(model)) > num_blocks
    assert free >= {"classifier.weight", "classifier.bias"}


def test_eu_k_of_all_blocks_forgets_the_weights_it_started_from():
    (forget, retain), models = few(), (new_model(seed=0), new_model(seed=1))
    first, second = (apply("eu_k", model, forget, retain, blocks=99, epochs=1) for model in models)
    assert_same_bits(first, second)


def test_unsir_without_impairing_is_adam_on_the_used_kept_samples():
    model, (forget, retain) = new_model(), few()
    result = apply("unsir", model, forget, retain, impair_epochs=0, repair_epochs=2, batch_size=16, retain_share=0.5)
    rng = np.random.default_rng(0)
    kept = sample(retain, 0.5, rng.spawn(1)[0])
    assert len(kept) == 38
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    for _ in range(2):
        for x, y in kept.batches(16, rng):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
    assert_same_bits(result, model)


def test_adverse_noise_raises_its_classes_loss_and_is_pulled_to_zero():
    """Far from zero, where the norm outweighs the loss, Adam's first step is -lr * sign(noise)."""
    model = new_model(dtype=torch.float64)
    start = torch.randn(6, 1, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([1, 1, 1, 4, 4, 4])
    config = UnsirConfig(name="unsir", noise_penalty=0)
    made = adverse_noise(model, start, y, config)
    losses = [F.cross_entropy(model(inputs), y).item() for inputs in (start, made)]
    assert losses[1] > losses[0] + 0.3
    pulled = adverse_noise(model, start, y, UnsirConfig(name="unsir", noise_steps=1, noise_penalty=1e6))
    torch.testing.assert_close(pulled, start - 0.1 * start.sign(), rtol=0, atol=1e-6)


def test_a_last_batch_of_one_sample_does_not_stop_batch_norm():
    model, (forget, retain) = new_model("mlp", "batch"), few(9, 38)
    result = apply("finetune", model, forget, replace(retain), epochs=1, batch_size=37)
    assert torch.equal(result.features[2].num_batches_tracked, torch.tensor(1))
