"""MSG: which weights are drawn anew, and which gradients are damped."""

import pytest
import torch
import torch.nn.functional as F

from tests.unlearning.digits_views import apply, differs, few, new_model
from unlearning.msg import kernel_names


@pytest.mark.parametrize("name", ["cnn", "mlp"])
def test_msg_draws_the_weights_anew_that_tell_least(name):
    """Against both gradients in one batch, with the sign of the forgotten samples' turned."""
    model, (forget, retain) = new_model(name, dtype=torch.float64), few(dtype=torch.float64)
    result = apply("msg", model, forget, retain, epochs=0, share=0.25)
    names = kernel_names(model)
    slopes = []
    for view in (retain, forget):
        model.zero_grad()
        x, y = view.all()
        F.cross_entropy(model(x), y).backward()
        slopes.append(torch.cat([dict(model.named_parameters())[n].grad.flatten() for n in names]))
    tells = (slopes[0] - slopes[1]).abs()
    changed = torch.cat([(result.state_dict()[n] != model.state_dict()[n]).flatten() for n in names])
    assert differs(result, model) <= set(names)
    assert changed.sum() == round(0.25 * len(changed))
    assert tells[changed].max() <= tells[~changed].min() * (1 + 1e-9) + 1e-15


def test_msg_damps_the_gradients_of_all_other_weights():
    """Damped to zero, without weight decay, only the weights that are new still move."""
    model, views = new_model(), few()
    options = {"share": 0.25, "damping": 0.0, "weight_decay": 0.0}
    fresh, repaired = (apply("msg", model, *views, epochs=epochs, **options) for epochs in (0, 2))
    assert differs(repaired, fresh) == differs(fresh, model)
    for name in kernel_names(model):
        new = fresh.state_dict()[name] != model.state_dict()[name]
        assert not (repaired.state_dict()[name] != fresh.state_dict()[name])[~new].any()
        assert (repaired.state_dict()[name] != fresh.state_dict()[name])[new].float().mean() > 0.5
