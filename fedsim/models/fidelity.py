"""Subset fidelity: how much of a layer's output a subset of its inputs can rebuild ("ModHiFi", arXiv:2511.19566).

Without bias, output channel c of a layer is a sum over its input channels, Y_c = Σ_i A_ci. The component
A_ci = Φ_i ⋆ W_ci is one kernel slice over one input channel; for a linear layer, one weight times one input. With
    Q_c[i, j] = E<A_ci, A_cj>,   R_ci = Σ_j Q_c[i, j],   q_ci = Q_c[i, i],   t_c = Σ_i R_ci = E‖Y_c‖²
the components C, each with its best rescaling, keep the share FS_c(C) = R_Cᵀ Q_CC⁻¹ R_C / t_c of the energy. A single
component keeps s_ci = R_ci² / (q_ci t_c). All statistics are sums over samples and positions, so the sums of clients
add up. They are computed in float64 from patches (M, I, K): the inputs of the K weights of a kernel slice, at the M
positions of all samples. They need no labels, no gradients and no A.

Differs from the paper: the ridge of the rescaling is relative, so it does not depend on the scale of the inputs. Scores
rank by s; the paper's text uses s, α and R in different places.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fedsim.models.base import Classifier

Layer = nn.Conv2d | nn.Linear

_DEAD = 1e-12  # an energy below this share of the layer's largest is rounding error


@dataclass(frozen=True, eq=False)
class ComponentSums:
    """Sums over samples and positions for a layer with C outputs and I input channels, float64; clients' sums add."""

    r: Tensor
    """(C, I) of <Y_c, A_ci>."""
    q: Tensor
    """(C, I) of <A_ci, A_ci>."""
    a: Tensor
    """(C, I) of A_ci."""
    count: int
    """M, samples times positions."""

    def __add__(self, other: ComponentSums) -> ComponentSums:
        return ComponentSums(self.r + other.r, self.q + other.q, self.a + other.a, self.count + other.count)


def editable_layers(model: Classifier) -> dict[str, Layer]:
    """Return the feature layers whose components can be scored, {name: layer}, from input to output.

    They are convolutions with zero padding and without groups, and linear layers after another layer of the same
    `nn.Sequential`, such as the second layer of a transformer's MLP. Attention is not included. The network's first
    layer is included only if there is no other one. A projection in a shortcut comes before the block that it bridges.
    """
    modules = {f"features.{name}": module for name, module in model.features.named_modules()}
    down: set[nn.Module] = set()
    for parent in modules.values():
        if isinstance(parent, nn.Sequential):
            down.update([child for child in parent if isinstance(child, nn.Conv2d | nn.Linear)][1:])
    first = next((name for name, module in modules.items() if isinstance(module, nn.Conv2d | nn.Linear)), "")
    layers: dict[str, Layer] = {}
    for name, module in modules.items():
        if isinstance(module, nn.Conv2d):
            if module.groups == 1 and module.padding_mode == "zeros" and not isinstance(module.padding, str):
                layers[name] = module
        elif isinstance(module, nn.Linear) and (module in down or name == first):
            layers[name] = module
    order: list[str] = []
    for name in layers:
        block, *side = re.split(r"\.(?:shortcut|downsample)\.", name)
        inside = [at for at, other in enumerate(order) if side and other.startswith(f"{block}.")]
        order.insert(min(inside, default=len(order)), name)
    return {name: layers[name] for name in order if name != first or len(order) == 1}


def patches(layer: Layer, x: Tensor) -> Tensor:
    """Return the inputs of each kernel slice at each position, (M, I, K) float64, from the layer's inputs.

    I is that of the inputs, because inputs of a narrowed model may be given with layers of the whole model.
    """
    x = x.double()
    if isinstance(layer, nn.Linear):
        return x.reshape(-1, x.shape[-1], 1)
    assert not isinstance(layer.padding, str)
    columns = F.unfold(x, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # (B, I K, positions)
    return columns.transpose(1, 2).reshape(-1, x.shape[1], columns.shape[1] // x.shape[1])


def slices(layer: Layer) -> Tensor:
    """Return the layer's weights per component, (C, I, K) float64."""
    return layer.weight.detach().double().reshape(*layer.weight.shape[:2], -1)


def sum_components(u: Tensor, w: Tensor) -> ComponentSums:
    """Return the sums of patches (M, I, K) and slices (C, I, K), without holding all A_ci at once."""
    y = torch.einsum("mik,cik->mc", u, w)
    r = (torch.einsum("mc,mik->cik", y, u) * w).sum(2)
    gram = torch.einsum("mip,miq->ipq", u, u)  # Gram matrix of each input channel
    q = torch.einsum("cip,ipq,ciq->ci", w, gram, w)
    return ComponentSums(r, q, torch.einsum("ik,cik->ci", u.sum(0), w), len(u))


@torch.no_grad()
def component_sums(
    model: Classifier, layers: Mapping[str, Layer], batches: Iterable[Tensor]
) -> dict[str, ComponentSums]:
    """Return {layer: sums} over inputs (B, *input_shape), with the model in evaluation mode; {} without batches."""
    sums: dict[str, ComponentSums] = {}

    def add(name: str, layer: Layer, inputs: tuple[Tensor, ...]) -> None:
        new = sum_components(patches(layer, inputs[0]), slices(layer))
        sums[name] = sums[name] + new if name in sums else new

    hooks = [layer.register_forward_pre_hook(partial(add, name)) for name, layer in layers.items()]
    try:
        model.eval()
        for x in batches:
            model.features(x)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


def singleton_fidelity(sums: ComponentSums, *, centred: bool = False) -> Tensor:
    """Return s_ci in [0, 1], (C, I); 0 for a component without energy.

    `centred` first removes each component's mean over samples and positions, as a batch norm would.
    """
    r, q = sums.r / sums.count, sums.q / sums.count
    if centred:
        a = sums.a / sums.count
        r, q = r - a * a.sum(1, keepdim=True), q - a.square()
    return _fidelity(r, q)


def _fidelity(r: Tensor, q: Tensor) -> Tensor:
    t = r.sum(1, keepdim=True)
    alive = (q > _DEAD * q.max()) & (t > _DEAD * t.max())
    return torch.where(alive, r.square() / (torch.where(alive, q, 1) * torch.where(alive, t, 1)), 0)


def top_components(scores: Tensor, share: float, per: Literal["output", "layer"]) -> Tensor:
    """Return the mask (C, I) of the components with the highest scores, per output channel or per layer.

    Their number is `share` of the components, rounded, and at least one if `share` is above 0.
    """
    rows = scores if per == "output" else scores.reshape(1, -1)
    count = min(max(1, round(share * rows.shape[1])), rows.shape[1]) if share > 0 else 0
    order = rows.argsort(dim=1, descending=True, stable=True)
    return torch.zeros_like(rows, dtype=torch.bool).scatter_(1, order[:, :count], True).view_as(scores)


def edit_components(layer: Layer, mask: Tensor, edit: Literal["zero", "negate"]) -> None:
    """Set the kernel slices where `mask` (C, I) is True to zero, or negate them, in place. The bias stays."""
    with torch.no_grad():
        chosen = mask.reshape(*mask.shape, *[1] * (layer.weight.ndim - 2))
        edited = torch.zeros_like(layer.weight) if edit == "zero" else -layer.weight
        layer.weight.copy_(torch.where(chosen, edited, layer.weight))


@dataclass(frozen=True, eq=False)
class PatchSums:
    """Second moments of a layer's patches of I components with K weights each, float64; clients' sums add.

    With D = I K inputs per position they take 8 D² bytes: 170 MB for 512 channels and 3x3 kernels.
    """

    gram: Tensor
    """(I K, I K) of u uᵀ."""
    total: Tensor
    """(I K,) of u."""
    count: int
    """M, samples times positions."""

    @classmethod
    def of(cls, u: Tensor) -> PatchSums:
        """Return the sums of patches (M, I, K)."""
        flat = u.flatten(1)
        return cls(flat.T @ flat, flat.sum(0), len(u))

    def __add__(self, other: PatchSums) -> PatchSums:
        return PatchSums(self.gram + other.gram, self.total + other.total, self.count + other.count)

    def moments(self, *, centred: bool) -> Tensor:
        """Return E[u uᵀ], (I K, I K); if `centred`, minus the product of the means."""
        gram, mean = self.gram / self.count, self.total / self.count
        return gram - torch.outer(mean, mean) if centred else gram


def component_fidelity(moments: Tensor, w: Tensor) -> Tensor:
    """Return s_ci, (C, I), from the moments (I K, I K) of patches and slices (C, I, K), without building Q."""
    outputs, inputs, k = w.shape
    r = ((w.flatten(1) @ moments).view(outputs, inputs, k) * w).sum(2)
    own = torch.stack([moments[i * k : (i + 1) * k, i * k : (i + 1) * k] for i in range(inputs)])
    q = torch.einsum("cip,ipq,ciq->ci", w, own, w)
    return _fidelity(r, q)


def similarity_of(moments: Tensor, w: Tensor) -> Tensor:
    """Return Q_c, (C, I, I), from the moments (I K, I K) of patches and slices (C, I, K)."""
    inputs, k = w.shape[1:]
    return torch.einsum("cip,ipjq,cjq->cij", w, moments.view(inputs, k, inputs, k), w)


def compensated(moments: Tensor, w: Tensor, kept: Tensor, ridge: float = 1e-4) -> Tensor:
    """Return the slices (C, I, K): zero outside of `kept`, and each kept one times its best factor δ_ci.

    With K = 1, as in a linear layer, one factorisation serves all outputs: W_C + (G_CC + ridge)⁻¹ G_CC̄ W_C̄.
    """
    inputs = w.shape[1]
    if len(kept) == inputs:
        return w
    outside = torch.ones(inputs, dtype=torch.bool, device=w.device)
    outside[kept] = False
    new = torch.zeros_like(w)
    if w.shape[2] == 1:
        inner = moments[kept][:, kept]
        inner = inner + ridge * inner.diagonal().mean() * torch.eye(len(kept), dtype=w.dtype, device=w.device)
        lost = moments[kept][:, outside] @ w[:, outside, 0].T
        new[:, kept, 0] = w[:, kept, 0] + torch.linalg.solve(inner, lost).T
        return new
    for c in range(len(w)):  # one output at a time: all Q_c together may not fit in memory
        factors = rescaling(similarity_of(moments, w[c : c + 1]), kept, ridge)
        new[c] = w[c] * factors[0, :, None]
    return new


def rescaling(q: Tensor, subset: Tensor, ridge: float = 1e-4) -> Tensor:
    """Return δ (..., I), the best factors of the components C for Q (..., I, I): 0 outside of C; 1 if C is everything.

    `ridge`, relative to the mean of the diagonal of Q_CC, is added to that diagonal.
    """
    factors = torch.zeros(q.shape[:-1], dtype=q.dtype, device=q.device)
    outside = torch.ones(q.shape[-1], dtype=torch.bool, device=q.device)
    outside[subset] = False
    factors[..., subset] = 1
    if not outside.any() or not len(subset):
        return factors
    inner = q[..., subset, :][..., subset]
    level = inner.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None]
    inner = inner + ridge * level * torch.eye(len(subset), dtype=q.dtype, device=q.device)
    lost = q[..., subset, :][..., outside].sum(-1)
    factors[..., subset] += torch.linalg.solve(inner, lost)
    return factors
