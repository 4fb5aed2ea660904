"""Class sizes under a long tail, and the groups of classes for its evaluation."""

import numpy as np
import numpy.typing as npt

from fedsim.errors import FedsimError
from fedsim.randomness import generator

IntArray = npt.NDArray[np.int64]


def long_tail_counts(num_classes: int, n_max: int, imbalance_factor: float) -> IntArray:
    """Return n_c = floor(n_max * IF^(c / (C - 1))), shape (C,); class 0 is the head, IF = n_min / n_max."""
    exponent = np.arange(num_classes) / max(num_classes - 1, 1)
    # The margin keeps whole products whole: 49 * (1 / 49) is 0.9999999999999999 in floating point.
    return np.floor(n_max * imbalance_factor**exponent * (1 + 1e-12)).astype(np.int64)


def long_tail_indices(
    y: IntArray, num_classes: int, imbalance_factor: float, max_per_class: int | None, seed: int
) -> IntArray:
    """Return the ascending rows of `y` that remain after the long tail and the cap.

    Each class keeps the first n_c rows of its own seeded permutation, so a smaller set is a subset of a larger one.
    Without a long tail, `max_per_class` caps the classes. With one, it is n_max; its default is the smallest class
    size.

    Raises
    ------
    FedsimError
        If a class would be left without samples, or has fewer samples than the long tail needs.
    """
    sizes = np.bincount(y, minlength=num_classes)
    if imbalance_factor < 1:
        if not (max_per_class or sizes.min()):
            raise FedsimError(
                f"data.imbalance_factor: class {int(sizes.argmin())} has no samples to cut a long tail from; "
                "add --set data.imbalance_factor=1"
            )
        keep = long_tail_counts(num_classes, max_per_class or int(sizes.min()), imbalance_factor)
        if keep[-1] < 1:
            raise FedsimError(
                f"data.imbalance_factor: {imbalance_factor} of a head class of {keep[0]} samples leaves the last class "
                "none; raise it or data.max_per_class"
            )
        if (short := np.flatnonzero(keep > sizes)).size:
            c = short[0]
            raise FedsimError(
                f"data.max_per_class: the long tail needs {keep[c]} samples of class {c}, of which there are "
                f"{sizes[c]}; lower it"
            )
    elif max_per_class is None:
        return np.arange(len(y))
    else:
        keep = np.minimum(sizes, max_per_class)
    kept = [generator(seed, "long-tail", c).permutation(np.flatnonzero(y == c))[: keep[c]] for c in range(num_classes)]
    return np.sort(np.concatenate(kept))


def shot_groups(counts: IntArray) -> dict[str, IntArray]:
    """Return the classes of each group "many", "medium" and "few", largest class first.

    FedLoGe's rule, for classes in descending order of `counts` (C,): "many" are the classes up to and including the one
    at which the cumulative share reaches 75 %; "medium" those up to and including 95 %; "few" the rest.
    """
    order = np.argsort(-counts, kind="stable")
    percent = 100 * np.cumsum(counts[order])
    many, medium = (int(np.searchsorted(percent, share * counts.sum())) + 1 for share in (75, 95))
    return {"many": order[:many], "medium": order[many:medium], "few": order[medium:]}
