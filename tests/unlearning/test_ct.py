"""CT: kernels are transposed."""

import copy

import numpy as np
import torch

from tests.unlearning.digits_views import assert_same_bits, differs, new_model
from unlearning.ct import transpose_kernels


def test_ct_transposes_each_square_kernel_and_twice_is_the_identity():
    model = new_model("resnet8", width=8)
    turned = copy.deepcopy(model)
    transpose_kernels(turned)
    for module, other in zip(model.modules(), turned.modules(), strict=True):
        if isinstance(module, torch.nn.Conv2d):
            for c, i in np.ndindex(*module.weight.shape[:2]):
                assert torch.equal(other.weight[c, i], module.weight[c, i].T)
    assert differs(turned, model) == {n for n, v in model.state_dict().items() if v.ndim == 4 and v.shape[-1] == 3}
    transpose_kernels(turned)
    assert_same_bits(turned, model)
