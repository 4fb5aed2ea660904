"""TARGET: classes arrive in stages and are remembered through synthetic images of the server (arXiv:2303.06937).

No client keeps samples of an earlier stage. After each stage the server inverts the global model: a generator makes a
small set of images X_syn (see `target_synthesis`). The clients receive it together with the frozen model w_t that was
inverted.

Client, f = f_w, over batches x of the new samples and, beside each, u of X_syn:
    L1 = CE(f(x), y) over the classes of the stage
    L2 = -mean_u sum_c q_c log p_c,   q = softmax(f_{w_t}(u) / temperature), p = softmax(f(u) / temperature)
                                      over the classes of earlier stages
    min L1 + distillation * L2                                                                       (the paper's alpha)
Server: as FedAvg, including batch-norm statistics. When a stage begins: w_t <- w, X_syn <- synthesis(w_t) replaces the
old set, and the classifier gets new rows for the stage's classes.

Differs from the authors' code: clients are weighted by their numbers of samples (theirs: all equal). An epoch takes all
real batches and repeats X_syn as often as needed (theirs: the shorter of the two ends it). The classifier has all its
rows from the start, and masks replace its growth; so weight decay also acts on rows that are not yet in use, until they
are drawn anew. L2 has no factor temperature^2.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.evaluation import TestSet
from fedsim.federated.registry import strategy
from fedsim.federated.server import Working
from fedsim.federated.staged import OLD, StagedClient, StagedServer, distillation
from fedsim.federated.types import Batch, Extras, Phase
from fedsim.flower.records import Tensors
from fedsim.models.base import Classifier
from fedsim.models.build import build_model
from fedsim.randomness import generator
from fedsim.training.precision import autocast, to_run_format
from strategies.target_synthesis import Made, Space, SynthesisConfig, synthesize

SAMPLES = "samples"
_SHEET = "sheet/"
_SHOWN = 64  # images of a stage that the report shows


class TargetConfig(StrategyConfig):
    """Options of TARGET."""

    distillation: float = Field(5.0, ge=0)
    """alpha, the weight of L2; 0 is fine-tuning without synthesis."""
    temperature: float = Field(2.0, gt=0)
    """Temperature of L2."""
    synthetic_batch: int = Field(64, ge=2)
    """Synthetic images beside each batch of real ones."""
    images: Literal["synthesis", "noise"] = "synthesis"
    """The content of X_syn; uniform noise is for comparison."""
    synthesis: SynthesisConfig = SynthesisConfig()
    """Options of the synthesis."""


class TargetClient(StagedClient):
    """SGD on the new classes with distillation on the server's images."""

    reports = ("distillation",)

    def phases(self) -> Sequence[Phase]:
        """Return the only phase; there are no images yet in the first stage."""
        options = self.options(TargetConfig)
        shared = SAMPLES if options.distillation else None
        return [Phase(self.loss, shared=shared, shared_batch=options.synthetic_batch)]

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return L1 + alpha L2 for one batch; two forward passes in training mode, first for the real samples."""
        options = self.options(TargetConfig)
        l1 = self.new_classes_loss(self.model.logits(params, buffers, batch.x, train=True), extras, batch)
        if batch.shared is None:
            return l1, {}
        u = batch.shared
        logits = self.model.logits(params, buffers, u, train=True)
        l2 = distillation(logits, self.previous_logits(extras, u), extras.constants[OLD], options.temperature).mean()
        return l1 + options.distillation * l2, {"distillation": l2}


class TargetServer(StagedServer):
    """Makes the images between stages."""

    def __init__(self, config: RunConfig, model: Classifier, data: FederatedData) -> None:
        super().__init__(config, model, data)
        self.samples: Tensor | None = None
        self.sheets: dict[int, Tensor] = {}
        options = self.options(TargetConfig)
        if data.stages is None or not options.distillation or options.images == "noise":
            return
        shape = data.dataset.input_shape
        if len(shape) != 3 or shape[1] % 4 or shape[2] % 4:
            raise FedsimError(
                f"strategy.synthesis: makes images with sides that are multiples of 4, and {data.dataset.name} has "
                f"samples of shape {shape}; use fedlwf"
            )
        if options.synthesis.weight_statistics and not any(isinstance(part, _BatchNorm) for part in model.modules()):
            raise FedsimError(
                f"strategy.synthesis.weight_statistics: {config.model.name} has no batch norm to compare with; "
                f"{config.model.way_to('batch')}, or set it to 0"
            )

    def begin_stage(self, stage: int, tensors: Tensors, working: Working) -> Tensors:
        """Make the images that represent the earlier stages."""
        begun = super().begin_stage(stage, tensors, working)
        options = self.options(TargetConfig)
        if options.distillation:
            known = self.known(stage - 1)
            if options.images == "noise":
                shape = (options.synthesis.images, *self.data.dataset.input_shape)
                noise = generator(self.config.seed, "noise images", stage).integers(0, 256, shape, dtype=np.uint8)
                self.samples = torch.from_numpy(noise)
            else:
                made = self._synthesize(stage, known, working)
                self.samples = made.images
                self.measured = self._measures(made, known)
            self.sheets[stage] = self.samples[:: max(1, len(self.samples) // _SHOWN)][:_SHOWN]
        return begun

    def _synthesize(self, stage: int, known: np.ndarray[Any, np.dtype[np.int64]], working: Working) -> Made:
        config, dataset, options = self.config, self.data.dataset, self.options(TargetConfig).synthesis
        like = next(iter(self.first.params.values()))

        def new_model() -> Classifier:
            model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.seed)
            return to_run_format(model, config.training, like.device)

        teacher = new_model()
        teacher.load_state_dict(self.previous)
        mean, std = (torch.tensor(value).to(like) for value in (dataset.mean, dataset.std))
        done = 0

        def tick() -> None:
            nonlocal done
            done += 1
            working(f"images for stage {stage + 1}", done, options.rounds)

        classes = torch.from_numpy(known).to(like.device)
        if config.data.augment == "flip_affine_jitter":
            raise FedsimError("data.augment: images are made through it by gradients; use crop, crop_flip or flip")
        space = Space(dataset.input_shape, mean, std, config.data.augment)
        forward = partial(autocast, config.training, like.device)
        return synthesize(teacher, new_model(), classes, space, options, (config.seed, stage), tick, forward)

    def _measures(self, made: Made, known: np.ndarray[Any, np.dtype[np.int64]]) -> dict[str, float]:
        """Return the critic's accuracy on known classes, and the smallest and largest share of a class."""
        like = next(iter(self.first.params.values()))
        tests = TestSet(self.data.dataset, like.device, like.dtype, "accuracy")
        seen = np.isin(np.arange(self.data.dataset.num_classes), known)
        critic = tests.score(lambda x: {"critic": made.critic(x)}, seen)["critic"]
        shares = {"least": float(made.histogram.min()), "most": float(made.histogram.max())}
        return {"critic_accuracy": critic.metrics("", {})["/accuracy"]} | {
            f"class_share:{name}": value for name, value in shares.items()
        }

    def constants(self) -> Tensors:
        """Return the masks, w_t and X_syn."""
        return super().constants() | ({} if self.samples is None else {SAMPLES: self.samples})

    def pictures(self) -> dict[str, Tensor]:
        """Return some of the images with which each stage began."""
        return {f"Synthetic images of stage {stage + 1}": images for stage, images in sorted(self.sheets.items())}

    def state_dict(self) -> tuple[Tensors, dict[str, Any]]:
        """Return the stage, w_t, X_syn, and the pictures."""
        tensors, values = super().state_dict()
        samples = {} if self.samples is None else {SAMPLES: self.samples}
        return tensors | samples | {f"{_SHEET}{stage}": sheet for stage, sheet in self.sheets.items()}, values

    def load_state_dict(self, tensors: Tensors, values: dict[str, Any]) -> None:
        """Restore the state."""
        super().load_state_dict(tensors, values)
        self.samples = tensors.get(SAMPLES)
        start = len(_SHEET)
        self.sheets = {int(name[start:]): value for name, value in tensors.items() if name.startswith(_SHEET)}


strategy(
    "target",
    TargetConfig,
    TargetClient,
    TargetServer,
    run_defaults={"data.stages.count": 2, "model.norm": "batch"},
    shows=("global/accuracy", "stages/accuracy_old", "stages/accuracy_new", "stages/forgetting"),
    metrics={
        "distillation": "L2, distance from the previous stage's model on the synthetic images",
        "critic_accuracy": "test accuracy of the critic, which only saw synthetic images",
        "class_share": "smallest and largest share of a class in the synthetic images",
    },
)
