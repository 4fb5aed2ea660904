"""Subset fidelity against brute force: float64, random inputs of both signs."""

from itertools import combinations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.fidelity import (
    ComponentSums,
    PatchSums,
    compensated,
    component_fidelity,
    edit_components,
    patches,
    rescaling,
    similarity_of,
    singleton_fidelity,
    slices,
    sum_components,
    top_components,
)

CONVS = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "stride": 2},
    {"kernel_size": (3, 1), "padding": (0, 2), "dilation": 2, "stride": (1, 2)},
    {"kernel_size": 1},
]


def similarity(u, w, *, centred=False):
    """Return all Q_c, (C, I, I), of patches (M, I, K) and slices (C, I, K): means over samples and positions."""
    return similarity_of(PatchSums.of(u).moments(centred=centred), w)


def subset_fidelity(q, subset):
    """Return FS(C) in [0, 1], shape (), of one channel's Q (I, I) and the component ids C (N,), N >= 1."""
    r = q.sum(1)[subset]
    share = r @ torch.linalg.solve(q[subset][:, subset], r) / q.sum()
    return share


def random(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def components(layer, x):
    """All A_ci, (C, I, samples times positions), by one convolution per slice."""
    w = layer.weight.detach()
    if isinstance(layer, nn.Linear):
        return torch.einsum("mi,ci->cim", x.reshape(-1, layer.in_features), w)
    sizes = (layer.stride, layer.padding, layer.dilation)
    rows = [
        [F.conv2d(x[:, i : i + 1], w[c : c + 1, i : i + 1], None, *sizes).flatten() for i in range(w.shape[1])]
        for c in range(w.shape[0])
    ]
    return torch.stack([torch.stack(row) for row in rows])


def case(kind, seed=0):
    """A layer with 6 inputs and 4 outputs, correlated inputs for it, and its A."""
    torch.manual_seed(seed)
    mix = random(6, 6, seed=seed)
    if kind == "linear":
        layer = nn.Linear(6, 4).double()
        x = random(5, 7, 6, seed=seed + 1) @ mix + 0.3
    else:
        layer = nn.Conv2d(6, 4, **CONVS[kind]).double()
        x = torch.einsum("bihw,ij->bjhw", random(5, 6, 8, 9, seed=seed + 1), mix) + 0.3
    return layer, x, components(layer, x)


every_layer = pytest.mark.parametrize("kind", [*range(len(CONVS)), "linear"])


@every_layer
def test_the_components_sum_to_the_output_without_bias(kind):
    layer, x, a = case(kind)
    y = layer(x).detach()
    y = y.reshape(-1, 4).T if kind == "linear" else y.transpose(0, 1).flatten(1)
    torch.testing.assert_close(a.sum(1), y - layer.bias.detach()[:, None], rtol=0, atol=1e-12)
    by_patches = torch.einsum("mik,cik->cim", patches(layer, x), slices(layer))
    torch.testing.assert_close(by_patches.reshape(a.shape), a, rtol=0, atol=1e-12)


@every_layer
def test_all_statistics_are_those_of_the_components(kind):
    layer, x, a = case(kind)
    q, m = torch.einsum("cim,cjm->cij", a, a), a.shape[2]
    sums = sum_components(patches(layer, x), slices(layer))
    torch.testing.assert_close(sums.r, q.sum(2), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(sums.q, q.diagonal(dim1=1, dim2=2), rtol=1e-12, atol=1e-10)
    torch.testing.assert_close(sums.a, a.sum(2), rtol=1e-12, atol=1e-10)
    assert sums.count == m
    torch.testing.assert_close(similarity(patches(layer, x), slices(layer)), q / m, rtol=1e-11, atol=1e-12)
    means = a.mean(2)
    centred = q / m - torch.einsum("ci,cj->cij", means, means)
    torch.testing.assert_close(
        similarity(patches(layer, x), slices(layer), centred=True), centred, rtol=1e-9, atol=1e-11
    )


def test_r_is_the_weight_times_a_local_weight_gradient():
    layer, x, _ = case(0)
    nn.init.zeros_(layer.bias)
    gradient = torch.autograd.grad(layer(x).square().sum() / 2, layer.weight)[0]
    expected = (layer.weight * gradient).sum((2, 3)).detach()
    torch.testing.assert_close(sum_components(patches(layer, x), slices(layer)).r, expected, rtol=1e-12, atol=1e-10)


def subsets(n):
    return [list(ids) for k in range(1, n + 1) for ids in combinations(range(n), k)]


def test_rescaling_and_fidelity_are_those_of_least_squares_for_every_subset():
    layer, x, a = case(1)
    q = similarity(patches(layer, x), slices(layer))
    for c in range(4):
        y = a[c].sum(0)
        for ids in subsets(6):
            subset = torch.tensor(ids)
            best = torch.linalg.lstsq(a[c][ids].T, y[:, None]).solution[:, 0]
            factors = rescaling(q[c], subset, ridge=0)
            torch.testing.assert_close(factors[ids], best, rtol=0, atol=1e-8)
            assert not factors[[i for i in range(6) if i not in ids]].any()
            error = (y - factors @ a[c]).square().sum() / y.square().sum()
            lost = 1 - factors
            fidelity = float(subset_fidelity(q[c], subset))
            assert fidelity == pytest.approx(1 - float(error), abs=1e-10)
            assert fidelity == pytest.approx(1 - float(lost @ q[c] @ lost / q[c].sum()), abs=1e-10)
            assert -1e-12 <= fidelity <= 1 + 1e-12


def test_fidelity_grows_with_the_subset_and_all_components_have_it_all():
    layer, x, _ = case(0)
    q = similarity(patches(layer, x), slices(layer))[2]
    share = {tuple(ids): float(subset_fidelity(q, torch.tensor(ids))) for ids in subsets(6)}
    assert all(share[a] <= share[b] + 1e-12 for a in share for b in share if set(a) < set(b))
    assert share[tuple(range(6))] == pytest.approx(1, abs=1e-12)
    assert torch.equal(rescaling(q, torch.arange(6)), torch.ones(6, dtype=torch.float64))


@every_layer
@pytest.mark.parametrize("centred", [False, True])
def test_the_score_of_one_component_is_its_fidelity(kind, centred):
    layer, x, _ = case(kind)
    u, w = patches(layer, x), slices(layer)
    q, scores = similarity(u, w, centred=centred), singleton_fidelity(sum_components(u, w), centred=centred)
    for c, i in np.ndindex(4, 6):
        assert float(scores[c, i]) == pytest.approx(float(subset_fidelity(q[c], torch.tensor([i]))), abs=1e-9)


def sums_of(q):
    """The sums that a layer of one output with this Q has."""
    return ComponentSums(q.sum(1)[None], q.diagonal()[None], torch.zeros(1, len(q)), 1)


def test_without_correlation_the_best_single_components_are_the_best_subset():
    energies = torch.tensor([0.5, 3.0, 0.0, 1.25, 2.0, 0.25], dtype=torch.float64)
    q = torch.diag(energies)
    scores = singleton_fidelity(sums_of(q))[0]
    torch.testing.assert_close(scores, energies / energies.sum(), rtol=0, atol=1e-14)
    alive = torch.tensor([0, 1, 3, 4, 5])  # a component without energy has no inverse
    for k in range(1, 6):
        naive = alive[scores[alive].topk(k).indices]
        best = max(float(subset_fidelity(q, torch.tensor(ids))) for ids in combinations(alive.tolist(), k))
        assert float(subset_fidelity(q, naive)) == pytest.approx(best, abs=1e-14)


def test_with_correlation_they_need_not_be():
    """Two near copies of the strongest component: the second adds nothing to the first."""
    a = random(3, 400)
    a[1] = a[0] + 0.01 * a[1]
    a[2] *= 0.8
    q = a @ a.T / 400
    scores = singleton_fidelity(sums_of(q))[0]
    naive = subset_fidelity(q, scores.topk(2).indices)
    assert max(float(subset_fidelity(q, torch.tensor(ids))) for ids in combinations(range(3), 2)) > float(naive) + 0.05


def test_components_that_cancel_have_no_fidelity_however_large():
    """A_1 = -A_2 = 10 n, A_3 = a: q is (100, 100, 1), of the output they are nothing."""
    n, a = random(2, 4000)
    q = torch.stack([10 * n, -10 * n, a])
    q = q @ q.T / 4000
    scores = singleton_fidelity(sums_of(q))[0]
    assert q[0, 0] > 90 * q[2, 2]
    assert scores[2] > 0.99
    assert (scores[:2] < 0.01).all()


@every_layer
def test_scores_do_not_depend_on_scale_and_move_with_a_permutation(kind):
    layer, x, _ = case(kind)
    u, w = patches(layer, x), slices(layer)
    scores, q = singleton_fidelity(sum_components(u, w)), similarity(u, w)
    subset = torch.tensor([0, 2, 5])
    for u2, w2 in [(10 * u, w), (u, -0.01 * w), (1e-4 * u, w)]:
        torch.testing.assert_close(singleton_fidelity(sum_components(u2, w2)), scores, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(rescaling(similarity(u2, w2), subset), rescaling(q, subset), rtol=1e-9, atol=1e-12)
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    torch.testing.assert_close(
        singleton_fidelity(sum_components(u[:, order], w[:, order])), scores[:, order], rtol=1e-10, atol=1e-12
    )


def test_dead_inputs_have_score_zero_and_a_dead_layer_too():
    layer, x, _ = case(0)
    x[:, 2] = 0
    for inputs_, dead in ((x, [2]), (0 * x, list(range(6)))):
        scores = singleton_fidelity(sum_components(patches(layer, inputs_), slices(layer)))
        assert scores.isfinite().all()
        assert not scores[:, dead].any()
        assert (scores <= 1 + 1e-12).all()


def test_rescaling_a_linear_layer_is_the_update_from_the_inputs_gram_matrix():
    layer, x, _ = case("linear")
    u, w = patches(layer, x), slices(layer)
    kept, lost = torch.tensor([1, 3, 4]), torch.tensor([0, 2, 5])
    gram = u[:, :, 0].T @ u[:, :, 0]
    weight = w[:, :, 0]
    expected = weight[:, kept] + weight[:, lost] @ torch.linalg.solve(gram[kept][:, kept], gram[kept][:, lost]).T
    factors = rescaling(similarity(u, w), kept, ridge=0)
    torch.testing.assert_close((weight * factors)[:, kept], expected, rtol=0, atol=1e-11)


def test_after_rescaling_the_output_loses_what_the_fidelity_says_and_no_more_than_before():
    layer, x, a = case(0)
    q, kept = similarity(patches(layer, x), slices(layer)), torch.tensor([0, 1, 4])
    factors = rescaling(q, kept, ridge=0)
    y, rebuilt = a.sum(1), torch.einsum("ci,cim->cm", factors, a)
    for c in range(4):
        t, error = y[c].square().mean(), (y[c] - rebuilt[c]).square().mean()
        assert float(error) == pytest.approx(float(t * (1 - subset_fidelity(q[c], kept))), abs=1e-10)
        gone = torch.ones(6, dtype=torch.float64)
        gone[kept] = 0
        assert error <= gone @ q[c] @ gone + 1e-12


def test_the_sums_of_any_split_of_the_samples_add_up_to_the_same_edit():
    layer, x, _ = case(0)
    x, w = torch.cat([x, -2 * x.flip(0)]), slices(layer)
    whole = sum_components(patches(layer, x), w)
    parts = [sum_components(patches(layer, part), w) for part in x.split([1, 5, 4])]
    total = parts[0] + parts[1] + parts[2]
    for name in ("r", "q", "a"):
        torch.testing.assert_close(getattr(total, name), getattr(whole, name), rtol=1e-10, atol=1e-10)
    assert total.count == whole.count
    masks = [top_components(singleton_fidelity(sums), 0.3, "layer") for sums in (total, whole)]
    assert torch.equal(*masks)


def test_the_best_components_are_counted_per_output_or_per_layer():
    scores = random(4, 10)
    rows = top_components(scores, 0.26, "output")
    assert rows.sum(1).tolist() == [3, 3, 3, 3]
    assert (scores[rows].view(4, 3).amin(1) > scores.masked_fill(rows, -9).amax(1)).all()
    layer = top_components(scores, 0.26, "layer")
    assert layer.sum() == 10
    assert scores[layer].min() > scores[~layer].max()
    assert top_components(scores, 0.001, "layer").sum() == 1
    assert not top_components(scores, 0, "output").any()
    assert top_components(scores, 1, "output").all()


@pytest.mark.parametrize("edit", ["zero", "negate"])
def test_an_edit_touches_the_chosen_slices_alone(edit):
    layer, _, _ = case(0)
    before, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
    mask = random(4, 6) > 0.5
    edit_components(layer, mask, edit)
    assert torch.equal(layer.weight[mask], 0 * before[mask] if edit == "zero" else -before[mask])
    assert torch.equal(layer.weight[~mask], before[~mask])
    assert torch.equal(layer.bias, bias)


def layer_and_patches(kernel: int) -> tuple[Tensor, Tensor]:
    draws = torch.Generator().manual_seed(6)
    mixing = torch.randn(6 * kernel, 6 * kernel, dtype=torch.float64, generator=draws)
    u = torch.randn(400, 6 * kernel, dtype=torch.float64, generator=draws) @ mixing + 0.3
    return u.view(400, 6, kernel), torch.randn(4, 6, kernel, dtype=torch.float64, generator=draws)


@pytest.mark.parametrize("kernel", [1, 4])
@pytest.mark.parametrize("centred", [False, True])
def test_fidelity_and_compensation_from_moments(kernel: int, centred: bool) -> None:
    """The layer's error after compensation is t (1 - FS), and never above that without."""
    u, w = layer_and_patches(kernel)
    moments = PatchSums.of(u).moments(centred=centred)
    q = similarity(u, w, centred=centred)
    t = q.sum((1, 2))
    singles = torch.stack([torch.stack([subset_fidelity(q[c], torch.tensor([i])) for i in range(6)]) for c in range(4)])
    assert (component_fidelity(moments, w) - singles).abs().max() < 1e-10
    kept = torch.tensor([0, 2, 5])
    new = compensated(moments, w, kept, ridge=0)
    u = u - u.mean(0) if centred else u
    error = (torch.einsum("mik,cik->mc", u, w - new)).square().mean(0)
    best = torch.stack([t[c] * (1 - subset_fidelity(q[c], kept)) for c in range(4)])
    assert (error - best).abs().max() <= 1e-10 * t.max()
    cut_only = torch.zeros_like(w)
    cut_only[:, kept] = w[:, kept]
    assert (torch.einsum("mik,cik->mc", u, w - cut_only).square().mean(0) >= error - 1e-10).all()
    assert torch.allclose(new, w * rescaling(q, kept, 0)[..., None], atol=1e-9)


def test_nothing_lost_is_nothing_rescaled() -> None:
    u, w = layer_and_patches(4)
    assert compensated(PatchSums.of(u).moments(centred=False), w, torch.arange(6)) is w
