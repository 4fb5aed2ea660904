"""Terms that the local objectives of several methods share."""

import torch
from torch import Tensor

from fedsim.records import Tensors


def proximal_penalty(params: Tensors, anchor: Tensors, mu: float) -> Tensor:
    """Return (mu/2) * sum_p ||params[p] - anchor[p]||^2, shape (), over the names in `anchor`."""
    return mu / 2 * torch.stack([(params[name] - value).square().sum() for name, value in anchor.items()]).sum()
