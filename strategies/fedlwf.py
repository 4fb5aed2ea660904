"""FedLwF: learning without forgetting (arXiv:1606.09282) for classes that arrive in stages, in a federation.

Client, with w_t the model at the end of the previous stage and f = f_w(x):
    min CE over the classes of the stage  +  penalty * -mean_x sum_c q_c log p_c
    q = softmax(f_{w_t}(x) / temperature), p = softmax(f / temperature), both over the classes of earlier stages
Server: as FedAvg. Classifier rows of new classes are drawn anew when their stage begins.

A penalty of 0 is fine-tuning. As in TARGET's comparison (arXiv:2303.06937), x are the client's own new samples. `mixed`
uses half-and-half mixtures of pairs of them instead (mixup, arXiv:1710.09412, with a fixed share). This shows whether
distillation needs the images of a generator, or works on any images.
"""

from pydantic import Field
from torch import Tensor

from fedsim.config.strategy import StrategyConfig
from fedsim.federated.registry import strategy
from fedsim.federated.staged import OLD, StagedClient, StagedServer, distillation
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors


class FedLwFConfig(StrategyConfig):
    """Options of FedLwF."""

    penalty: float = Field(3.0, ge=0)
    """lambda, the weight of the distillation; 0 is fine-tuning."""
    temperature: float = Field(2.0, gt=0)
    """Temperature of the distillation."""
    mixed: bool = False
    """Distil on mixtures of two samples each, in a separate forward pass, instead of on the samples."""


class FedLwFClient(StagedClient):
    """SGD on the new classes with the distillation."""

    reports = ("distillation",)

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return the objective for one batch."""
        options = self.options(FedLwFConfig)
        logits = self.model.logits(params, buffers, batch.x, train=True)
        loss = self.new_classes_loss(logits, extras, batch)
        if not options.penalty or self.is_first_stage(extras):
            return loss, {}
        x = batch.x
        if options.mixed:
            x = (x + x.flip(0)) / 2
            logits = self.model.logits(params, buffers, x, train=True)
        l2 = batch.mean(
            distillation(logits, self.previous_logits(extras, x), extras.constants[OLD], options.temperature)
        )
        return loss + options.penalty * l2, {"distillation": l2}


strategy(
    "fedlwf", FedLwFConfig, FedLwFClient, StagedServer, run_defaults={"data.stages.count": 2},
    metrics={"distillation": "distance from the predictions of the previous stage's model on the same samples"},
)  # fmt: skip
