"""Frozen simplex equiangular tight frames: the classifiers of FedETF (dense) and FedLoGe (sparse, arXiv:2401.08977).

Dense:  M0 = sqrt(C / (C-1)) * P (I - 11^T / C),  P the Q factor of a random (d, C) matrix; M0^T M0 = G.
Sparse: floor(beta*d*C) random entries of M0 become 0. Then the other entries change until the columns are a frame:
  "lbfgs"  min_W ||(W*S)^T (W*S) - G||_F^2; afterwards every column is scaled to the norm gamma;
  "adam"   min_W sum_c (||w_c|| - gamma)^2 - (1/C) sum_c min_{j != c} angle(w_c, w_j), as in the authors' code.

Differs from the authors' code: the classifier has no bias. A mask is drawn again if two classes have no common free
weight, because they would stay at 90 degrees. A result that is not a frame is an error.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from threadpoolctl import threadpool_limits
from torch import Tensor

from fedsim.errors import FedsimError

Array = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

ANGLE_TOLERANCE = {"lbfgs": 0.01, "adam": 1.0}  # degrees; the authors' own frames are off by 0.1 (C=10) to 0.9 (C=100)
NORM_TOLERANCE = 0.02  # relative; Adam moves a weight by at most ADAM_STEPS * ADAM_RATE = 1
LBFGS_STEPS = 2000
ADAM_STEPS = 10_000
ADAM_RATE = 1e-4
COSINE_BOUND = 0.99999  # the authors' clamp before arccos
MASK_DRAWS = 100
FREEDOM_MARGIN = 1.05  # nearer to the exact count, thousands of steps still leave errors of 0.01 degrees


def ideal_angle(num_classes: int) -> float:
    """Return the angle between any two of C maximally separated directions, arccos(-1 / (C-1)), in degrees."""
    return float(np.degrees(np.arccos(-1.0 / (num_classes - 1))))


def pairwise_angles(vectors: Tensor) -> Tensor:
    """Return the angles in degrees between all pairs of the rows of `vectors` (C, d); shape (C*(C-1)/2,), float64."""
    unit = torch.nn.functional.normalize(vectors.detach().double(), dim=1)
    rows, cols = torch.triu_indices(len(unit), len(unit), offset=1, device=unit.device)
    return torch.rad2deg(torch.arccos((unit @ unit.T)[rows, cols].clamp(-1.0, 1.0)))


def largest_sparsity(num_classes: int, dim: int) -> float:
    """Return the largest share of zeros, in [0, 1), allowed in a sparse frame of C vectors in d dimensions.

    There are two bounds, both stricter than the necessary (1-beta)*d > (C+1)/2. Counting: the columns of a frame sum to
    0, which takes d of the (1-beta)*d*C free weights; the rest must exceed the C*(C-1)/2 scalar products by a margin.
    Overlap: on average, at most one pair of columns may have no common free weight,
    C*(C-1)/2 * (1 - (1-beta)^2)^d <= 1.
    """
    _check_shape(num_classes, dim)
    if num_classes == 2:
        return 0.0  # the zeros of opposite vectors are in the same places
    pairs = num_classes * (num_classes - 1) / 2
    counting = 1 - (dim + FREEDOM_MARGIN * pairs) / (dim * num_classes)
    overlap = 1 - np.sqrt(1 - pairs ** (-1 / dim))
    return max(0.0, float(min(counting, overlap)))


def sparse_etf(
    num_classes: int,
    dim: int,
    sparsity: float,
    norm: float,
    generator: np.random.Generator,
    method: Literal["lbfgs", "adam"] = "lbfgs",
) -> Tensor:
    """Return the frozen classifier V (C, d), float32: rows of length `norm` at equal angles, with a share of zeros.

    Parameters
    ----------
    num_classes, dim
        C and d, with d >= C.
    sparsity
        beta in [0, 1), at most `largest_sparsity(C, d)`: exactly floor(beta*d*C) entries are 0 ("adam" also brings
        the weight of a feature that only one class may use to 0). With 0 the result is the dense frame: columns
        at equal angles that sum to 0, randomly rotated.
    norm
        gamma > 0. "lbfgs" reaches it up to rounding, "adam" to about 1 % if gamma <= 1.
    generator
        Draws the frame, then the mask; nothing else is random.
    method
        "lbfgs" (angles within 0.01 degrees) or the authors' "adam" (within 1 degree, far slower).

    Raises
    ------
    FedsimError
        If the arguments allow no frame, or the method found none within its tolerance.
    """
    _check_sparse(num_classes, dim, sparsity, norm, method)
    with _one_blas_thread():
        dense = _simplex(num_classes, dim, generator)
        if sparsity == 0:
            return torch.from_numpy(norm * dense.T).float()
        free = _draw_mask(num_classes, dim, sparsity, generator)
        frame = _solve_lbfgs(dense, free, norm) if method == "lbfgs" else _solve_adam(dense, free, norm)
    classifier = torch.from_numpy(np.ascontiguousarray(frame.T)).float()
    angle_error = float((pairwise_angles(classifier) - ideal_angle(num_classes)).abs().max())
    norm_error = float((classifier.norm(dim=1) / norm - 1).abs().max())
    if not (angle_error <= ANGLE_TOLERANCE[method] and norm_error <= NORM_TOLERANCE):
        raise FedsimError(
            f"{method!r} found no sparse ETF with num_classes={num_classes}, dim={dim}, sparsity={sparsity}, "
            f"norm={norm}: angles are off by {angle_error:.2g} degrees (allowed {ANGLE_TOLERANCE[method]}), "
            f"norms by {norm_error:.2%} (allowed {NORM_TOLERANCE:.0%}); "
            "lower the sparsity, change the seed or use method 'lbfgs'"
        )
    return classifier


def gram_loss(frame: Array) -> tuple[float, Array]:
    """Return ||W^T W - G||_F^2 of a frame W (d, C), G the Gram matrix of the unit frame, and its gradient (d, C)."""
    num_classes = frame.shape[1]
    error = frame.T @ frame - (num_classes * np.eye(num_classes) - 1) / (num_classes - 1)
    return float(np.square(error).sum()), 4 * frame @ error


def angle_loss(frame: Array, norm: float) -> tuple[float, Array]:
    """Return the authors' loss of a frame W (d, C) and its gradient (d, C).

    sum_c (||w_c|| - gamma)^2 - (1/C) sum_c min_{j != c} arccos(cos(w_c, w_j)), angles in radians, cosines clamped.
    """
    classes = np.arange(frame.shape[1])
    norms = np.sqrt(np.square(frame).sum(axis=0))
    unit = frame / norms
    cosines = unit.T @ unit
    np.fill_diagonal(cosines, -1)
    nearest = cosines.argmax(axis=1)
    cosine = cosines[classes, nearest]
    inside = np.abs(cosine) < COSINE_BOUND
    cosine = np.clip(cosine, -COSINE_BOUND, COSINE_BOUND)
    loss = np.square(norms - norm).sum() - np.arccos(cosine).mean()

    slope = np.zeros_like(cosines)  # d loss / d cosines
    slope[classes, nearest] = inside / np.sqrt(1 - np.square(cosine)) / len(classes)
    turn = unit @ (slope + slope.T)
    turn -= unit * (unit * turn).sum(axis=0)
    return float(loss), turn / norms + 2 * (norms - norm) * unit


def _one_blas_thread() -> AbstractContextManager[object]:
    """Return a context with one BLAS thread; on exit, the process has its earlier number of threads.

    More threads would change the last bits, so a server and its workers could disagree on V. They are also slower at
    these sizes (up to 17 times, on two busy cores).
    """
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits


def _simplex(num_classes: int, dim: int, generator: np.random.Generator) -> Array:
    _check_shape(num_classes, dim)
    rotation = np.linalg.qr(generator.uniform(size=(dim, num_classes))).Q
    frame: Array = np.sqrt(num_classes / (num_classes - 1)) * (rotation - rotation.mean(axis=1, keepdims=True))
    return frame


def _draw_mask(num_classes: int, dim: int, sparsity: float, generator: np.random.Generator) -> Mask:
    """Return the mask (d, C) of free entries; every two columns share a free row."""
    for _ in range(MASK_DRAWS):
        free = np.ones((dim, num_classes), dtype=np.bool_)
        free.flat[generator.choice(free.size, int(sparsity * dim * num_classes), replace=False)] = False
        if (free.T.astype(np.float64) @ free > 0).all():
            return free
    raise FedsimError(
        f"each of {MASK_DRAWS} masks with sparsity={sparsity}, num_classes={num_classes}, dim={dim} leaves two classes "
        "without a common free weight; lower the sparsity"
    )


def _solve_lbfgs(start: Array, free: Mask, norm: float) -> Array:
    def objective(weights: Array) -> tuple[float, Array]:
        frame = np.zeros_like(start)
        frame[free] = weights
        loss, gradient = gram_loss(frame)
        return loss, gradient[free]

    options = {"maxiter": LBFGS_STEPS, "maxfun": 2 * LBFGS_STEPS, "maxcor": 20, "ftol": 0.0, "gtol": 1e-8}
    result = minimize(objective, start[free], jac=True, method="L-BFGS-B", options=options)
    frame = np.zeros_like(start)
    frame[free] = result.x
    scaled: Array = norm * frame / np.sqrt(np.square(frame).sum(axis=0))
    return scaled


def _solve_adam(start: Array, free: Mask, norm: float) -> Array:
    return adam(lambda frame: angle_loss(frame, norm)[1] * free, start * free, ADAM_STEPS, ADAM_RATE)


def adam(gradient: Callable[[Array], Array], start: Array, steps: int, rate: float) -> Array:
    """Return `start` after `steps` of Adam with the usual constants (0.9, 0.999, 1e-8); gradient 0 is no change."""
    point, first, second = start.copy(), np.zeros_like(start), np.zeros_like(start)
    for step in range(1, steps + 1):
        slope = gradient(point)
        first += 0.1 * (slope - first)
        second += 0.001 * (np.square(slope) - second)
        point -= rate / (1 - 0.9**step) * first / (np.sqrt(second / (1 - 0.999**step)) + 1e-8)
    return point


def _check_shape(num_classes: int, dim: int) -> None:
    if num_classes < 2 or dim < num_classes:
        raise FedsimError(
            f"model: a simplex ETF needs two classes or more and as many features, got {num_classes} classes and {dim} "
            "features; give the model more features, for example with model.width"
        )


def _check_sparse(num_classes: int, dim: int, sparsity: float, norm: float, method: str) -> None:
    _check_shape(num_classes, dim)
    if method not in ANGLE_TOLERANCE:
        raise FedsimError(f"unknown ETF method {method!r}; valid: {', '.join(sorted(ANGLE_TOLERANCE))}")
    if not 0 < norm < np.inf:
        raise FedsimError(f"the norm of an ETF must be positive and finite; got {norm}")
    if not 0 <= sparsity < 1:
        raise FedsimError(f"the sparsity of an ETF must lie in [0, 1); got {sparsity}")
    largest = largest_sparsity(num_classes, dim)
    if sparsity > largest:
        raise FedsimError(
            f"strategy.sparsity={sparsity} is too high for num_classes={num_classes}, dim={dim}: use at most "
            f"{np.floor(largest * 1e4) / 1e4:.4f}, with which (1 - sparsity) * dim stays well above "
            f"(num_classes + 1) / 2 (here {(1 - sparsity) * dim:.4g} and {(num_classes + 1) / 2:.4g}) and any two "
            "classes share a free weight"
        )
