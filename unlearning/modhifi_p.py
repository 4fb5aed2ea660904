"""ModHiFi-P: keep the channels that best rebuild some output of some layer; without labels, gradients or fine-tuning.

For each layer that reads a channel, score its components (c, i) by s_ci = R_ci² / (q_ci t_c) (see
`fedsim.models.fidelity`). H contains, for each output channel c, the share p of the inputs with the highest s_c·.
Channel i of a group is removed if no layer that reads the group has (c, i) in H for any c. The others are rescaled and
batch norm is re-estimated; `unlearning.pipeline.prune` does both for every method.
"ModHiFi: Identifying High Fidelity predictive components for Model Modification" (arXiv:2511.19566, Algorithm 1, D.3).

Differs from the paper: the classifier and projection shortcuts count as layers that read a channel. Channels with equal
ranks are ordered by their highest s: with many outputs, nearly every input is the best one of some output, so ranks
alone could not remove more. `per: layer` ranks all components of a layer together, the other interpretation of
Algorithm 1.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from fedsim.models.channels import ChannelGroup
from fedsim.models.fidelity import component_fidelity
from unlearning.api.pruner import PrunerConfig, PruningTask, pruner


class ModHiFiPConfig(PrunerConfig):
    """Options of ModHiFi-P."""

    per: Literal["output", "layer"] = "output"
    """The set of which p is a share: the components of each output channel, or of the layer."""


def best_place(scores: Tensor, per: Literal["output", "layer"]) -> Tensor:
    """Return for each input the best rank of its components in scores (C, I), in [0, 1): (I,); 0 is first."""
    rows = scores if per == "output" else scores.reshape(1, -1)
    places = rows.argsort(dim=1, descending=True, stable=True).argsort(dim=1).double() / rows.shape[1]
    return places.view_as(scores).amin(0)


@pruner("modhifi_p", ModHiFiPConfig, samples=True)
def order(task: PruningTask, config: ModHiFiPConfig, rng: np.random.Generator) -> Mapping[str, Tensor]:
    """Return the smallest share p at which each channel would be kept."""
    return {name: _needed_share(task, group, config) for name, group in task.groups.items()}


def _needed_share(task: PruningTask, group: ChannelGroup, config: ModHiFiPConfig) -> Tensor:
    places, highest = torch.ones(group.channels, dtype=torch.float64), torch.zeros(group.channels, dtype=torch.float64)
    for consumer in group.consumers:
        weight = task.model.get_parameter(f"{consumer.name}.weight").detach().double()
        slices = weight.reshape(len(weight), group.channels, -1)
        scores = component_fidelity(task.moments[consumer.name].to(weight.device), slices).cpu()
        places = torch.minimum(places, best_place(scores, config.per))
        highest = torch.maximum(highest, scores.amax(0))
    finest = 1 / (2 * max(group.channels, 2) ** 2)  # less than the distance between two ranks
    return (places + finest * (1 - highest)).clamp(max=1)
