"""ModHiFi-U: switch off the components that best rebuild a class's signal; no gradients, labels or kept samples.

With samples of the class only, score each component (c, i) of a layer by its fidelity s_ci = R_ci² / (q_ci t_c) (see
`fedsim.models.fidelity`). For the share p with the highest s:  W_ci ← 0, or W_ci ← −W_ci in networks with layer norm.
"ModHiFi: Identifying High Fidelity predictive components for Model Modification" (arXiv:2511.19566).
Differs from the paper: by default the best components of each layer, not of each of its output channels; the latter
costs a narrow network more of the other classes. As in the paper (Appendix D.2), if there is batch norm, scores are of
components minus their means, because batch norm removes these. Here the mean is one number per component, over samples
and positions; the paper's formula has one per position.
Re-estimating batch norm on kept samples afterwards restores most of the class.
"""

from typing import Literal

import numpy as np
from pydantic import Field

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from fedsim.models.build import has_batch_coupling
from fedsim.models.fidelity import (
    component_sums,
    edit_components,
    editable_layers,
    singleton_fidelity,
    top_components,
)
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, searched, unlearning
from unlearning.api.view import View


class ModHiFiConfig(UnlearningConfig):
    """Options of ModHiFi-U.

    Nothing repairs the edited components, so kept samples lose some points; with fewer edits a class remains known.
    """

    share: float = Field(0.06, ge=0, le=1, json_schema_extra=searched(0.01, 0.3))
    """p, the share of components that are edited; the paper's values are 0.01 to 0.2."""
    layers: int = Field(4, ge=1)
    """Number of layers to edit, counted from the end of the feature extractor; never its first. The paper's value is
    12."""
    per: Literal["output", "layer"] = "layer"
    """The set of which p is a share: the components of each output channel, or of the layer."""
    score: Literal["auto", "fidelity", "centred"] = "auto"
    """s, or s of components minus their mean; auto: the latter if the model has batch norm."""
    edit: Literal["auto", "zero", "negate"] = "auto"
    """auto negates if the model has layer norm, and zeroes otherwise."""
    batch_size: int = Field(64, ge=1)
    """Samples per pass."""


@unlearning("modhifi_u", ModHiFiConfig, Needs(forget_labels=False, retain=False, gradients=False), {"class"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: ModHiFiConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model without the class's best components."""
    layers = dict(list(editable_layers(model).items())[-config.layers :])
    if not layers:
        raise FedsimError("--method modhifi_u: the model has no convolution and no hidden layer to edit; use neggrad")
    has_layer_norm = any(type(module).__name__ == "LayerNorm" for module in model.modules())
    centred = config.score == "centred" or (config.score == "auto" and has_batch_coupling(model))
    edit = config.edit if config.edit != "auto" else "negate" if has_layer_norm else "zero"
    sums = component_sums(model, layers, (x for x, _ in forget.batches(config.batch_size, None)))
    for name, total in sums.items():
        scores = singleton_fidelity(total, centred=centred)
        edit_components(layers[name], top_components(scores, config.share, config.per), edit)
    return model.eval()
