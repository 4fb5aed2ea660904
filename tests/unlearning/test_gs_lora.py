"""GS-LoRA: its formulas by hand, what stays bit for bit, merging, prototypes, and few shots."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.func import functional_call

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.models.config import ModelConfig
from fedsim.models.vit import vit as zoo_vit
from fedsim.randomness import generator
from unlearning.api.view import View
from unlearning.gs_lora import (
    Blocks,
    Factors,
    GsLoraConfig,
    GsLoraPlusConfig,
    block_norms,
    bounded,
    effective,
    merge,
    new_factors,
    perceptrons,
    prototype_divergence,
    prototypes,
    soft_threshold,
    some_samples,
    train_factors,
    unlearn,
    unlearn_with_prototypes,
)
from unlearning.parts.steps import spawn_rng


def vit(seed: int = 0, **options: float) -> Classifier:
    config = ModelConfig(name="vit", **{"width": 8, "depth": 2, "heads": 2, "patch": 4, **options})  # type: ignore[arg-type]
    return build_model(config, (1, 8, 8), 4, seed).eval()


def view(count: int, classes: list[int], seed: int = 0) -> View:
    rng = generator(seed, "gs-lora test")
    x = torch.from_numpy(rng.integers(0, 256, (count, 1, 8, 8), np.uint8))
    return View(x, torch.from_numpy(rng.choice(classes, count)))


def config(**options: object) -> GsLoraConfig:
    return GsLoraConfig.model_validate(
        {"name": "gs_lora", "rank": 2, "epochs": 3, "batch_size": 8, "share": 1, "warmup": 1, **options}
    )


def drawn(model: Classifier, rank: int = 3) -> tuple[Blocks, Factors]:
    """Return factors none of which is zero."""
    blocks = perceptrons(model)
    factors = new_factors(model, blocks, rank, generator(1, "factors"))
    with torch.no_grad():
        for _, b in factors.values():
            b.copy_(torch.from_numpy(generator(2, "factors").standard_normal(b.shape)))
    return blocks, factors


def test_new_factors_leave_every_bit_of_the_logits_and_there_are_r_times_in_plus_out_of_them() -> None:
    model, x = vit(), torch.randn(5, 1, 8, 8)
    blocks = perceptrons(model)
    assert list(blocks) == ["features.encoder.1.mlp", "features.encoder.2.mlp"]
    factors = new_factors(model, blocks, 3, generator(0, "factors"))
    assert torch.equal(functional_call(model, effective(model, factors), (x,)), model(x))
    assert sum(part.numel() for pair in factors.values() for part in pair) == 2 * 2 * 3 * (8 + 16)
    norms = [sum(factors[layer][0].square().sum() for layer in pair) for pair in blocks.values()]
    assert torch.allclose(block_norms(factors, blocks), torch.stack(norms).sqrt())


def test_as_many_as_the_paper_counts_in_vit_b_16_and_in_the_face_transformer() -> None:
    with torch.device("meta"):
        from torchvision.models import vit_b_16

        faces, _ = zoo_vit((3, 112, 112), width=512, depth=6, heads=8, patch=8, mlp_ratio=4.0)
        networks = vit_b_16(), faces
    for network, expected in zip(networks, ((12, 737_280), (6, 245_760)), strict=True):
        blocks = perceptrons(network)
        layers = [network.get_parameter(f"{name}.weight").shape for pair in blocks.values() for name in pair]
        assert (len(blocks), sum(8 * (out + inputs) for out, inputs in layers)) == expected


def test_the_gradient_of_a_blocks_norm_is_its_direction() -> None:
    model = vit()
    blocks, factors = drawn(model)
    norms = block_norms(factors, blocks)
    norms.sum().backward()
    for pair, norm in zip(blocks.values(), norms, strict=True):
        by_hand = math.sqrt(sum(part.square().sum().item() for layer in pair for part in factors[layer]))
        assert norm.item() == pytest.approx(by_hand, rel=1e-6)
        for layer in pair:
            for part in factors[layer]:
                assert part.grad is not None
                assert torch.allclose(part.grad, part.detach() / by_hand, atol=1e-6)
    for scale in (-2.0, 0.5):
        scaled = {name: (a * scale, b * scale) for name, (a, b) in factors.items()}
        assert torch.allclose(block_norms(scaled, blocks), abs(scale) * norms)


def test_forgetting_is_bounded() -> None:
    for value, slope in ((3.0, -1.0), (5.0, 0.0), (7.0, 0.0)):
        loss = torch.tensor(value, requires_grad=True)
        found = bounded(loss, 5.0)
        found.backward()
        assert loss.grad is not None
        assert (found.item(), loss.grad.item()) == (max(0, 5 - value), slope)


def test_prototype_divergence() -> None:
    p, h = torch.randn(6, 5, dtype=torch.float64), torch.randn(6, 5, dtype=torch.float64)
    assert float(prototype_divergence(p + 3.0, p)) == pytest.approx(0, abs=1e-12)
    q, r = p.softmax(1), h.softmax(1)
    assert float(prototype_divergence(h, p)) == pytest.approx(float((q * (q / r).log()).sum(1).mean()))
    assert float(prototype_divergence(h, p)) != pytest.approx(float(prototype_divergence(p, h)))


def test_prototypes_are_means_of_the_model_given() -> None:
    model, some = vit(), view(30, [0, 1, 3])
    found = prototypes(model, [some], 7)
    x, y = some.all()
    assert y is not None
    with torch.no_grad():
        h = model.features(x)
    for label in (0, 1, 3):
        assert torch.allclose(found[label], h[y == label].mean(0), atol=1e-6)
    assert not found[2].any()
    assert not torch.allclose(found, prototypes(vit(seed=1), [some], 7), atol=1e-2)


def test_soft_threshold() -> None:
    model = vit()
    blocks, factors = drawn(model)
    first, second = blocks.values()
    before = {name: (a.detach().clone(), b.detach().clone()) for name, (a, b) in factors.items()}
    with torch.no_grad():
        for layer in first:
            for part in factors[layer]:
                part *= 1e-3
    small, large = block_norms(factors, blocks).detach().tolist()
    soft_threshold(factors, blocks, (small + large) / 2)
    assert all(not part.any() for layer in first for part in factors[layer])
    for layer in second:
        for now, was in zip(factors[layer], before[layer], strict=True):
            assert F.cosine_similarity(now.flatten(), was.flatten(), dim=0).item() == pytest.approx(1, abs=1e-6)
            assert now.norm() < was.norm()


@pytest.mark.parametrize("run", [unlearn, unlearn_with_prototypes])
def test_nothing_but_the_perceptrons_changes_and_merging_keeps_the_logits_bits(run) -> None:  # type: ignore[no-untyped-def]
    model = vit()
    first = copy.deepcopy(model.state_dict())
    kind = GsLoraConfig if run is unlearn else GsLoraPlusConfig
    options = kind.model_validate({**config().model_dump(), "name": "gs_lora"})
    after = run(model, view(20, [3]), view(40, [0, 1, 2], 1), options, generator(0, "m")).state_dict()
    layers = {f"{name}.weight" for pair in perceptrons(vit()).values() for name in pair}
    assert {name for name, value in after.items() if not torch.equal(value, first[name])} == layers

    model, x = vit(), torch.randn(9, 1, 8, 8)
    _, factors = drawn(model)
    with torch.no_grad():
        unmerged = functional_call(model, effective(model, factors), (x,))
        merge(model, factors)
        assert torch.equal(model(x), unmerged)
        for _, b in factors.values():
            b.zero_()
        merge(model, factors)  # again, with new factors: nothing
        assert torch.equal(model(x), unmerged)


def test_after_two_requests_the_weights_are_the_first_and_both_changes() -> None:
    model, x = vit(), torch.randn(9, 1, 8, 8)
    first, sums = copy.deepcopy(model), {}
    for seed in (1, 2):
        _, factors = drawn(model, seed + 1)
        for name, (a, b) in factors.items():
            sums[name] = sums.get(name, 0) + (b @ a).detach() / len(a)
        merge(model, factors)
    assert not torch.allclose(model(x), first(x))
    for name, change in sums.items():
        found = model.get_parameter(f"{name}.weight") - first.get_parameter(f"{name}.weight")
        assert torch.allclose(found, change, rtol=0, atol=1e-5)


def test_with_all_else_off_it_is_plain_lora_on_the_replayed_samples() -> None:
    """The twin: two lines of AdamW on the kept batches in their order."""
    options = config(beta=0, alpha=0)
    forget, retain = view(20, [3]), view(40, [0, 1, 2], 1)
    model, blocks = vit(), perceptrons(vit())
    factors = new_factors(model, blocks, 2, generator(0, "f"))
    train_factors(model, factors, blocks, forget, retain, options, generator(0, "m"))

    twin, rng = new_factors(model, blocks, 2, generator(0, "f")), generator(0, "m")
    spawn_rng(rng)
    leaves = [part for pair in twin.values() for part in pair]
    optimizer = torch.optim.AdamW(leaves, options.lr, weight_decay=options.weight_decay)
    for epoch in range(3):
        optimizer.param_groups[0]["lr"] = 1e-5 + (1e-2 - 1e-5) * (1 + math.cos(math.pi * epoch / 3)) / 2
        for x, y in retain.batches(8, rng):
            optimizer.zero_grad()
            logits = functional_call(model.train(), effective(model, twin), (x,))
            assert y is not None
            F.cross_entropy(logits, y).backward()
            optimizer.step()
    for name, pair in factors.items():
        for ours, theirs in zip(pair, twin[name], strict=True):
            assert torch.allclose(ours, theirs, rtol=0, atol=1e-6)


def test_it_forgets_the_class_that_it_is_told_to() -> None:
    """On noise, which a small network can learn by heart; a block's norm weighs little, as such gradients do."""
    torch.manual_seed(0)
    model, forget, retain = vit(width=32), view(24, [3], 5), view(72, [0, 1, 2], 6)
    both = [(forget.all(), retain.all())]
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(150):
        (x_f, y_f), (x_r, y_r) = both[0]
        loss = F.cross_entropy(model(torch.cat([x_f, x_r])), torch.cat([y_f, y_r]))  # type: ignore[list-item]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    def right(some: View) -> float:
        x, y = some.all()
        return float((model.eval()(x).argmax(1) == y).float().mean())

    assert right(forget) > 0.9
    assert right(retain) > 0.9
    model = unlearn(model, forget, retain, config(epochs=30, rank=4, alpha=1e-4), generator(0, "m"))  # type: ignore[call-arg]
    assert right(forget) < 0.1
    assert right(retain) > 0.9


def test_few_shots_and_classes_without_replay() -> None:
    samples = view(60, [0, 1, 2])
    few = some_samples(samples, config(shots=4), generator(0, "s"), frozenset({1}))
    assert few.y is not None
    assert np.bincount(few.y.numpy(), minlength=4).tolist() == [4, 0, 4, 0]
    with pytest.raises(FedsimError, match=r"^--set gs_lora.unreplayed: 3 classes are kept; leave fewer of them out"):
        unlearn(vit(), view(9, [3]), samples, config(unreplayed=3), generator(0, "m"))  # type: ignore[call-arg]


def test_a_model_without_perceptrons_is_refused() -> None:
    model = build_model(ModelConfig(name="cnn"), (1, 8, 8), 4, 0)
    with pytest.raises(FedsimError, match=r"^--method gs_lora: the model has no transformer blocks"):
        perceptrons(model)
