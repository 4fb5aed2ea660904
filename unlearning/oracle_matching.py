"""Oracle matching: fine-tune the model until its logits are those of a model retrained without the forgotten samples.

t(x) = z(x; θ_oracle), with one oracle per model, of other seeds than the judging ones; see `unlearning.parts.matching`.
It is an upper bound and not meant for deployment: with the oracle at hand, no unlearning is needed.
"Attribute-to-Delete: Machine Unlearning via Datamodel Matching" (arXiv:2410.23232).
"""

import numpy as np
import torch

from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import unlearning
from unlearning.api.view import View
from unlearning.parts.matching import MatchingConfig, match
from unlearning.parts.steps import required


class OracleMatchingConfig(MatchingConfig):
    """Options of oracle matching."""


@unlearning(
    "oracle_matching",
    OracleMatchingConfig,
    Needs(forget_labels=False, retain_labels=False, oracle=True),
    {"class", "samples", "clients"},
)
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: OracleMatchingConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model, matched to the oracle."""
    kept = required(retain)
    logits = torch.cat([required(forget.oracle), required(kept.oracle)])
    return match(model, forget, kept, lambda x, rows: logits[rows], config, rng)
