"""Subset fidelity: how much of a layer's output some of its inputs can rebuild ("ModHiFi", arXiv:2511.19566).

Output channel c of a layer is, without bias, a sum over its input channels, Y_c = Σ_i A_ci, in which the component
A_ci = Φ_i ⋆ W_ci is one kernel slice over one input channel (of a linear layer, one weight times one input). With
    Q_c[i, j] = E<A_ci, A_cj>,   R_ci = Σ_j Q_c[i, j],   q_ci = Q_c[i, i],   t_c = Σ_i R_ci = E‖Y_c‖²
the components C, each rescaled in the best way, keep the share FS_c(C) = R_Cᵀ Q_CC⁻¹ R_C / t_c of the energy; of one
alone that is s_ci = R_ci² / (q_ci t_c). All statistics are sums over samples and positions, so those of several clients
add up; they are taken in float64, from the patches u_i that a kernel slice meets at each position, and need no labels,
no gradients and no A.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.base import Classifier

Layer = nn.Conv2d | nn.Linear

_DEAD = 1e-12  # energy, relative to the layer's largest, from which on a component is rounding


@dataclass(frozen=True, eq=False)
class ComponentSums:
    """Sums over samples and positions for one layer of C output and I input channels; those of two clients add up."""

    r: Tensor
    """(C, I) of <Y_c, A_ci>."""
    q: Tensor
    """(C, I) of <A_ci, A_ci>."""
    mean: Tensor
    """(C, I) of A_ci itself."""
    count: int
    """Samples times positions."""

    def __add__(self, other: ComponentSums) -> ComponentSums:
        return ComponentSums(
            self.r + other.r, self.q + other.q, self.mean + other.mean, self.count + other.count
        )


def editable_layers(model: Classifier) -> dict[str, Layer]:
    """Return by name, from input to output, the feature layers whose inputs are channels that another layer made.

    Those are convolutions without groups, and linear layers that follow a layer with weights in one `nn.Sequential`,
    such as the down-projection of a transformer's perceptron; attention is left out. The first layer is in only if it
    is the only one.
    """
    layers: dict[str, Layer] = {}
    first: dict[str, Layer] = {}
    for name, module in model.features.named_modules(prefix="features"):
        children = list(module.named_children()) if isinstance(module, nn.Sequential) else []
        weighted = [(f"{name}.{key}", child) for key, child in children if isinstance(child, nn.Conv2d | nn.Linear)]
        downs = {child for _, child in weighted[1:] if isinstance(child, nn.Linear)}
        for full, child in weighted:
            first.setdefault(full, child)
    del layers
    return first
