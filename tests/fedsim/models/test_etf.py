"""Frozen ETF classifiers: gradients against slow reference code, invariants of the frames, and refusals."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_info, threadpool_limits

from fedsim.errors import FedsimError
from fedsim.models.etf import (
    ANGLE_TOLERANCE,
    _simplex,
    adam,
    angle_loss,
    gram_loss,
    ideal_angle,
    largest_sparsity,
    pairwise_angles,
    sparse_etf,
)


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def simplex_etf(num_classes: int, dim: int, generator: np.random.Generator) -> torch.Tensor:
    return torch.from_numpy(_simplex(num_classes, dim, generator))


def literal_angle_loss(weights: torch.Tensor, norm: float) -> torch.Tensor:
    """The frame's formula, word for word: weights (d, C)."""
    classes = weights.shape[1]
    loss = torch.zeros((), dtype=weights.dtype)
    for c in range(classes):
        angles = []
        for j in range(classes):
            if j != c:
                cosine = torch.dot(weights[:, c], weights[:, j]) / (weights[:, c].norm() * weights[:, j].norm())
                angles.append(torch.arccos(torch.clamp(cosine, -0.99999, 0.99999)))
        loss = loss + (weights[:, c].norm() - norm) ** 2 - torch.stack(angles).min() / classes
    return loss


def literal_gram_loss(weights: torch.Tensor) -> torch.Tensor:
    """Every pair of columns (d, C) should have the scalar product 1 with itself and -1/(C-1) with others."""
    classes = weights.shape[1]
    loss = torch.zeros((), dtype=weights.dtype)
    for c in range(classes):
        for j in range(classes):
            loss = loss + (torch.dot(weights[:, c], weights[:, j]) - (1.0 if c == j else -1 / (classes - 1))) ** 2
    return loss


LOSSES = [
    pytest.param(gram_loss, literal_gram_loss, id="gram"),
    pytest.param(lambda w: angle_loss(w, 0.3), lambda w: literal_angle_loss(w, 0.3), id="angle"),
]
Loss = Callable[[np.ndarray], tuple[float, np.ndarray]]


@pytest.mark.parametrize(("loss", "twin"), LOSSES)
def test_losses_and_gradients_equal_autograd(loss: Loss, twin: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights = rng().normal(size=(7, 5))
    leaf = torch.from_numpy(weights).requires_grad_(True)
    expected = twin(leaf)
    expected.backward()
    value, gradient = loss(weights)
    assert value == pytest.approx(expected.item(), rel=1e-12)
    np.testing.assert_allclose(gradient, leaf.grad.numpy(), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(("loss", "twin"), LOSSES)
def test_gradients_equal_finite_differences(loss: Loss, twin: Callable[[torch.Tensor], torch.Tensor]) -> None:
    weights, step = rng(1).normal(size=(6, 4)), 1e-6
    slopes = np.empty_like(weights)
    for entry in np.ndindex(weights.shape):
        shift = np.zeros_like(weights)
        shift[entry] = step
        slopes[entry] = (loss(weights + shift)[0] - loss(weights - shift)[0]) / (2 * step)
    np.testing.assert_allclose(loss(weights)[1], slopes, rtol=1e-6, atol=1e-7)


def test_nearly_parallel_columns_have_no_angle_gradient() -> None:
    """Beyond the clamp arccos is constant: only the norm term is left, 2 * (||w|| - gamma) * w / ||w||."""
    weights = np.array([[2.0, 2.0], [0.0, 0.002]])  # cosine 1 - 5e-7
    length = np.hypot(2.0, 0.002)
    slope = 2 * (length - 0.5) / length
    np.testing.assert_allclose(angle_loss(weights, 0.5)[1], [[3.0, 2 * slope], [0.0, 0.002 * slope]], atol=1e-12)


def test_adam_is_the_adam_of_torch() -> None:
    mask = rng().uniform(size=(8, 3)) > 0.3
    start = rng(1).normal(size=(8, 3)) * mask
    leaf = torch.from_numpy(start.copy()).requires_grad_(True)
    optimiser = torch.optim.Adam([leaf], lr=1e-2)
    for _ in range(30):
        optimiser.zero_grad()
        literal_angle_loss(leaf, 0.3).backward()
        leaf.grad.mul_(torch.from_numpy(mask))
        optimiser.step()
    result = adam(lambda w: angle_loss(w, 0.3)[1] * mask, start, 30, 1e-2)
    np.testing.assert_allclose(result, leaf.detach().numpy(), rtol=0, atol=1e-9)
    assert (result[~mask] == 0).all()


def test_angles_by_hand() -> None:
    vectors = torch.tensor([[2.0, 0.0], [0.0, -3.0], [-1.0, 1.0]])
    torch.testing.assert_close(pairwise_angles(vectors), torch.tensor([90.0, 135.0, 135.0], dtype=torch.float64))
    assert ideal_angle(3) == pytest.approx(120)
    assert ideal_angle(10) == pytest.approx(96.3794, abs=1e-4)


@pytest.mark.parametrize(("dim", "classes"), [(64, 10), (512, 100), (10, 10), (3, 2), (512, 2)])
def test_dense_frame(dim: int, classes: int) -> None:
    frame = simplex_etf(classes, dim, rng())
    assert frame.shape == (dim, classes)
    assert frame.dtype == torch.float64
    gram = classes / (classes - 1) * (torch.eye(classes) - torch.ones(classes, classes) / classes)
    torch.testing.assert_close(frame.T @ frame, gram.double(), rtol=0, atol=1e-6)
    torch.testing.assert_close(frame.sum(dim=1), torch.zeros(dim, dtype=torch.float64), rtol=0, atol=1e-6)
    torch.testing.assert_close(frame.norm(dim=0), torch.ones(classes, dtype=torch.float64), rtol=0, atol=1e-12)
    assert not torch.allclose(frame, simplex_etf(classes, dim, rng(1)), atol=1e-3)


@pytest.mark.parametrize(("dim", "classes"), [(9, 10), (10, 1), (1, 0)])
def test_dense_frame_needs_enough_dimensions(dim: int, classes: int) -> None:
    with pytest.raises(FedsimError, match=r"got \d+ classes and \d+ features; give the model more"):
        simplex_etf(classes, dim, rng())


# zeros: floor(0.6 * 64 * 10), floor(0.6 * 512 * 10), floor(0.6 * 512 * 100), floor(0.3 * 11 * 7) = floor(23.1)
@pytest.mark.parametrize(
    ("dim", "classes", "sparsity", "zeros"),
    [(64, 10, 0.6, 384), (512, 10, 0.6, 3072), (512, 100, 0.6, 30720), (11, 7, 0.3, 23)],
)
@pytest.mark.parametrize("norm", [0.1, 1.0])
def test_sparse_frame(dim: int, classes: int, sparsity: float, zeros: int, norm: float) -> None:
    frame = sparse_etf(classes, dim, sparsity, norm, rng())
    assert frame.shape == (classes, dim)
    assert frame.dtype == torch.float32
    assert frame.is_contiguous()
    assert int((frame == 0).sum()) == zeros
    torch.testing.assert_close(frame.norm(dim=1), torch.full((classes,), norm), rtol=1e-6, atol=0)
    assert (pairwise_angles(frame) - ideal_angle(classes)).abs().max() < 1e-3
    # ||sum_c v_c||^2 is the sum of the Gram errors, so the sum is as exact as the square root of those.
    torch.testing.assert_close(frame.sum(dim=0), torch.zeros(dim), rtol=0, atol=1e-2 * norm)


@pytest.mark.parametrize("method", ["lbfgs", "adam"])
def test_without_sparsity_is_the_dense_frame(method: str) -> None:
    frame = sparse_etf(10, 64, 0.0, 0.3, rng(5), method)  # type: ignore[arg-type]  # a str from parametrize
    assert torch.equal(frame, (0.3 * simplex_etf(10, 64, rng(5)).T).float())


def test_adam_frame() -> None:
    """The authors' method: 0.25 degrees at (64, 10), norms within 1 %, all masked entries 0."""
    frame = sparse_etf(10, 64, 0.6, 0.1, rng(), "adam")
    free = sparse_etf(10, 64, 0.6, 0.1, rng()) != 0
    assert (frame[~free] == 0).all()
    assert (frame[:, free.sum(dim=0) > 1][free[:, free.sum(dim=0) > 1]] != 0).all()
    torch.testing.assert_close(frame.norm(dim=1), torch.full((10,), 0.1), rtol=0.01, atol=0)
    angles = pairwise_angles(frame)
    assert (angles - ideal_angle(10)).abs().max() < 0.25
    assert angles.std() > 1e-3, "not the exact method under the other name"


@pytest.mark.slow
def test_adam_frame_matches_the_authors_logs() -> None:
    """Their logs at d=512, C=100, gamma=0.1: mean angle 90.578, variance 0.043 degrees^2, norms 0.1002."""
    frame = sparse_etf(100, 512, 0.6, 0.1, rng(), "adam")
    angles = pairwise_angles(frame)
    assert angles.mean().item() == pytest.approx(90.578, abs=2e-3)
    assert angles.var().item() == pytest.approx(0.043, abs=0.003)
    assert frame.norm(dim=1).mean().item() == pytest.approx(0.1002, abs=1e-4)


@pytest.mark.parametrize(("dim", "classes", "sparsity"), [(64, 10, 0.9), (512, 100, 0.9), (128, 100, 0.6)])
def test_infeasible_sparsity_is_refused_with_the_largest_one(dim: int, classes: int, sparsity: float) -> None:
    with pytest.raises(FedsimError) as error:
        sparse_etf(classes, dim, sparsity, 0.1, rng())
    text = str(error.value)
    assert "\n" not in text
    for part in (f"sparsity={sparsity}", f"num_classes={classes}", f"dim={dim}", "(num_classes + 1) / 2"):
        assert part in text
    allowed = float(text.split("use at most ")[1].split(",")[0])
    assert 0 <= largest_sparsity(classes, dim) - allowed < 1e-4


@pytest.mark.parametrize(("dim", "classes"), [(64, 10), (128, 10), (40, 25), (16, 3), (12, 10)])
def test_largest_sparsity_is_feasible_and_below_the_necessary_rule(dim: int, classes: int) -> None:
    largest = largest_sparsity(classes, dim)
    assert 0 < largest < 1 - (classes + 1) / (2 * dim)
    sparse_etf(classes, dim, largest, 0.1, rng())  # checks itself
    with pytest.raises(FedsimError, match="is too high"):
        sparse_etf(classes, dim, largest + 1e-6, 0.1, rng())


def test_two_classes_have_only_the_dense_frame() -> None:
    """Opposite vectors have the same zeros; independent masks do not."""
    assert largest_sparsity(2, 512) == 0
    assert pairwise_angles(sparse_etf(2, 512, 0.0, 1.0, rng())).item() == pytest.approx(180, abs=0.1)


def test_a_result_that_is_no_frame_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fedsim.models.etf.LBFGS_STEPS", 3)
    with pytest.raises(FedsimError, match=r"'lbfgs' found no sparse ETF .* angles are off by"):
        sparse_etf(10, 64, 0.6, 0.1, rng())


def test_a_norm_out_of_reach_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Adam moves a weight by at most steps * rate; a frame with good angles and a wrong norm is no result."""
    monkeypatch.setattr("fedsim.models.etf.ADAM_STEPS", 500)
    monkeypatch.setitem(ANGLE_TOLERANCE, "adam", 180.0)
    with pytest.raises(FedsimError, match=r"'adam' found no sparse ETF .*use method 'lbfgs'"):
        sparse_etf(10, 64, 0.6, 30.0, rng(), "adam")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 1.0}, r"must lie in \[0, 1\); got 1.0"),
        ({"sparsity": -0.1}, r"must lie in \[0, 1\); got -0.1"),
        ({"sparsity": float("nan")}, r"must lie in \[0, 1\); got nan"),
        ({"norm": 0.0}, "must be positive and finite; got 0.0"),
        ({"norm": float("inf")}, "must be positive and finite; got inf"),
        ({"method": "sgd"}, "unknown ETF method 'sgd'; valid: adam, lbfgs"),
        ({"dim": 9}, "got 10 classes and 9 features"),
    ],
)
def test_bad_arguments_are_refused(change: dict[str, object], message: str) -> None:
    arguments = {"num_classes": 10, "dim": 64, "sparsity": 0.6, "norm": 0.1, "generator": rng()} | change
    with pytest.raises(FedsimError, match=message):
        sparse_etf(**arguments)  # type: ignore[arg-type]  # wrong on purpose


def test_the_generator_decides_and_nothing_global_changes() -> None:
    numpy_state = np.random.get_state()[1].copy()  # noqa: NPY002 - the legacy state is what must stay untouched
    torch_state, threads, pools = torch.get_rng_state(), torch.get_num_threads(), threadpool_info()
    first = sparse_etf(10, 64, 0.6, 0.1, rng(3))
    assert torch.equal(first, sparse_etf(10, 64, 0.6, 0.1, rng(3)))
    assert not torch.equal(first == 0, sparse_etf(10, 64, 0.6, 0.1, rng(4)) == 0)
    assert torch.equal(torch_state, torch.get_rng_state())
    assert (numpy_state == np.random.get_state()[1]).all()  # noqa: NPY002 - as above
    assert (threads, pools) == (torch.get_num_threads(), threadpool_info())


def test_thread_counts_do_not_change_the_bits() -> None:
    """A server and a worker with another number of threads rebuild the same V; at this size BLAS would use them."""
    frames = []
    for threads in (1, 2):
        with threadpool_limits(limits=threads):
            frames.append(sparse_etf(100, 512, 0.6, 0.1, rng()))
    assert torch.equal(*frames)
