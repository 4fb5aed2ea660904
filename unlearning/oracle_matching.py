"""Oracle matching: fine-tune the model until its logits are those of a model retrained without what is forgotten.

t(x) = z(x; θ_oracle), an oracle of another seed than those that judge, one per model; see `unlearning.parts.matching`.
An upper bound, not a method to deploy: who has the oracle needs no unlearning.
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
