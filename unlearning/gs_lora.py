"""GS-LoRA and GS-LoRA++: forget classes by low-rank factors in a few blocks of a transformer; the rest stays unchanged.

Both linear layers of each block's MLP get factors, W_eff = W + s B A with s = 1 / rank, A (rank, in) random, B (out,
rank) zero. Only the factors are trained, by AdamW with a cosine schedule, on L = L_r + β L_f + α_t L_s + L_pro:
    L_r = CE(D_r batch),   L_f = max(0, bound - CE(D_f batch)),
    L_s = Σ_l sqrt(‖A_l1‖² + ‖B_l1‖² + ‖A_l2‖² + ‖B_l2‖²),   α_t = 0 in the first epochs, then α,
    L_pro = w_f max(0, bound_pro - K(D_f)) + w_r K(D_r),   K = mean_i KL(softmax(p_{y_i}) ‖ softmax(h(x_i))),
with h the features and p_c the mean features of class c in the loaded model. At the end W ← W + s B A. This is the same
expression as in training, so the logits keep all their bits. The outcome differs from the model before it only by s B
A, and `fedsim undo` subtracts it. GS-LoRA has w_f = w_r = 0.
"Continual Forgetting for Pre-trained Vision Models" (arXiv:2403.11530), "Practical Continual Forgetting for
Pre-trained Vision Models" (arXiv:2501.09705).

Differs from the authors' code: prototypes come from the loaded model, not from one with random weights. There is no
averaging over epochs. Logits are those of the plain head, without a margin. `bound` is by default above log C, which
plain softmax needs: max(10, 2 log C). `soft_threshold` makes exact zeros, which Adam does not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torch.func import functional_call

from fedsim.errors import FedsimError
from fedsim.models.base import Classifier
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, unlearning
from unlearning.api.view import View
from unlearning.parts.steps import endless, required, sample, spawn_rng

Factors = dict[str, tuple[Tensor, Tensor]]
"""{layer: (A (rank, in), B (out, rank))}."""
Blocks = Mapping[str, tuple[str, str]]
"""{block: its two layers}."""

_TINY = 1e-12  # added under the root, whose gradient at 0 is not finite


class FactorsConfig(UnlearningConfig):
    """Options of the training of factors."""

    rank: int = Field(4, ge=1)
    """Rank of the factors; the paper's value is 8."""
    lr: float = Field(1e-2, gt=0)
    """Learning rate of AdamW; it falls to 1e-5 along a cosine."""
    weight_decay: float = Field(0.05, ge=0)
    """Weight decay of AdamW, on the factors."""
    epochs: int = Field(60, ge=0)
    """Passes over the replayed samples; the paper's value is 100."""
    batch_size: int = Field(32, ge=1)
    """Samples of each kind per step; the paper's value is 48."""
    beta: float = Field(0.2, ge=0)
    """β, the weight of forgetting."""
    bound: float | None = Field(None, gt=0)
    """Cross-entropy above which a batch counts as forgotten; by default max(10, 2 log C)."""
    alpha: float = Field(0.03, ge=0)
    """α, the weight of the blocks' norms; 0 is plain LoRA."""
    warmup: int = Field(10, ge=0)
    """Epochs without this weight."""
    soft_threshold: bool = False
    """Shrink each block by lr α after a step, instead of using the gradient of its norm; this makes exact zeros."""
    share: float = Field(0.1, gt=0, le=1)
    """Share of the samples to forget and to keep that is used."""
    shots: int | None = Field(None, ge=1)
    """Number of samples per class to use, instead of a share."""
    push: float = Field(0.0, ge=0)
    """w_f: move forgotten samples away from their prototypes."""
    pull: float = Field(0.0, ge=0)
    """w_r: keep the kept samples near their prototypes."""
    prototype_bound: float = Field(10.0, gt=0)
    """Divergence above which a forgotten batch is far enough; the paper's value is 18."""


class GsLoraConfig(FactorsConfig):
    """Options of GS-LoRA."""

    unreplayed: int = Field(0, ge=0)
    """Number of kept classes of which no sample is used."""


class GsLoraPlusConfig(GsLoraConfig):
    """Options of GS-LoRA++."""

    push: float = Field(0.05, ge=0)
    """w_f: move forgotten samples away from their prototypes."""
    pull: float = Field(0.05, ge=0)
    """w_r: keep the kept samples near their prototypes."""


def perceptrons(model: nn.Module, method: str = "gs_lora") -> Blocks:
    """Return the two linear layers of each block's MLP: modules called `mlp` with two such layers.

    Raises
    ------
    FedsimError
        If there are none; the message names the requested `method`.
    """
    blocks = {}
    for name, module in model.named_modules():
        layers = [inner for inner, part in module.named_modules() if isinstance(part, nn.Linear)]
        if name.rpartition(".")[2] == "mlp" and len(layers) == 2:
            blocks[name] = (f"{name}.{layers[0]}", f"{name}.{layers[1]}")
    if not blocks:
        raise FedsimError(f"--method {method}: the model has no transformer blocks; use a vit, or another method")
    return blocks


def new_factors(model: nn.Module, blocks: Blocks, rank: int, rng: np.random.Generator) -> Factors:
    """Return trainable factors: A uniform in ±1/sqrt(in) (Kaiming with a = sqrt 5), B zero."""
    factors = {}
    for name in (layer for pair in blocks.values() for layer in pair):
        weight = model.get_parameter(f"{name}.weight")
        out, inputs = weight.shape
        drawn = rng.uniform(-1, 1, (rank, inputs)) / math.sqrt(inputs)
        factors[name] = (
            torch.from_numpy(drawn).to(weight).requires_grad_(),
            torch.zeros(out, rank, dtype=weight.dtype, device=weight.device, requires_grad=True),
        )
    return factors


def effective(model: nn.Module, factors: Factors) -> dict[str, Tensor]:
    """Return W + s B A of every layer with factors, s = 1 / rank, by the parameter's name."""
    return {
        f"{name}.weight": model.get_parameter(f"{name}.weight") + (b @ a) / len(a) for name, (a, b) in factors.items()
    }


def block_norms(factors: Factors, blocks: Blocks) -> Tensor:
    """Return sqrt(‖A_l1‖² + ‖B_l1‖² + ‖A_l2‖² + ‖B_l2‖²) of each block l, (L,), over the trained parts."""
    squares = [sum(part.square().sum() for part in trained(factors, pair)) for pair in blocks.values()]
    return torch.stack([torch.as_tensor(square) + _TINY for square in squares]).sqrt()


def trained(factors: Factors, layers: Iterable[str]) -> list[Tensor]:
    """Return the trained parts of some layers' factors: A and B, or only B if A is fixed."""
    return [part for layer in layers for part in factors[layer] if part.requires_grad]


def bounded(loss: Tensor, bound: float) -> Tensor:
    """Return max(0, bound - loss), (): it has no gradient once the loss has reached the bound."""
    return F.relu(bound - loss)


def prototype_divergence(features: Tensor, targets: Tensor) -> Tensor:
    """Return K, (), from features (B, d) and each sample's prototype (B, d): mean KL(softmax(p) ‖ softmax(h))."""
    log_h, log_p = features.log_softmax(1), targets.log_softmax(1)
    return F.kl_div(log_h, log_p, reduction="batchmean", log_target=True)


def prototypes(model: Classifier, views: list[View], batch_size: int) -> Tensor:
    """Return the mean features of each class over the samples of all views, (C, d); 0 for a class without samples."""
    sums, counts = feature_sums(model, views, batch_size)
    return sums / counts.clamp_min(1)


@torch.no_grad()
def feature_sums(model: Classifier, views: list[View], batch_size: int) -> tuple[Tensor, Tensor]:
    """Return the sums of the features of each class over the samples of all views, (C, d), and their numbers (C, 1)."""
    model.eval()
    sums = torch.zeros_like(model.classifier.weight)
    counts = torch.zeros(len(sums), 1, dtype=sums.dtype, device=sums.device)
    for view in views:
        for x, y in view.batches(batch_size, None):
            sums.index_add_(0, required(y), model.features(x))
            counts.index_add_(0, required(y), torch.ones(len(x), 1).to(counts))
    return sums, counts


@torch.no_grad()
def soft_threshold(factors: Factors, blocks: Blocks, amount: float) -> None:
    """Multiply each block's factors by max(0, 1 - amount / norm), in place."""
    for pair, norm in zip(blocks.values(), block_norms(factors, blocks), strict=True):
        shrunk = (1 - amount / norm).clamp_min(0)
        for part in trained(factors, pair):
            part *= shrunk


def some_samples(view: View, config: FactorsConfig, rng: np.random.Generator, left_out: frozenset[int]) -> View:
    """Return the samples of a view to use: a share, or a number per class; none of a class in `left_out`."""
    labels = required(view.y).cpu().numpy()
    if left_out:
        rows = torch.from_numpy(np.flatnonzero(~np.isin(labels, list(left_out)))).to(view.x.device)
        view = replace(view, x=view.x[rows], y=required(view.y)[rows])
        labels = required(view.y).cpu().numpy()
    if config.shots is None:
        return sample(view, config.share, rng)
    drawn = [rng.permutation(np.flatnonzero(labels == label))[: config.shots] for label in np.unique(labels)]
    rows = torch.from_numpy(np.sort(np.concatenate(drawn))).to(view.x.device)
    return replace(view, x=view.x[rows], y=required(view.y)[rows])


def train_factors(
    model: Classifier, factors: Factors, blocks: Blocks, forget: View, retain: View, config: FactorsConfig,
    rng: np.random.Generator, *, span: range | None = None, centres: Tensor | None = None,
) -> None:  # fmt: skip
    """Train the factors in place; the model keeps all its bits.

    Parameters
    ----------
    forget
        If it is empty, the factors only learn to retain.
    span
        The epochs of the schedule to run; all by default.
    centres
        Prototypes, (C, d), if they are not those of these samples.
    """
    span = range(config.epochs) if span is None else span
    leaves = [{"params": trained(factors, factors), "initial_lr": config.lr}]
    optimizer = torch.optim.AdamW(leaves, config.lr, weight_decay=config.weight_decay)
    lowest = min(1e-5, config.lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
        optimizer, max(config.epochs, 1), lowest, last_epoch=span.start - 1
    )
    if centres is None and (config.push or config.pull):
        centres = prototypes(model, [forget, retain], config.batch_size)
    objective = _objective(model, factors, blocks, config, centres)
    others = spawn_rng(rng)
    leaving = endless(forget, config.batch_size, others)
    for epoch in span:
        alpha = config.alpha if epoch >= config.warmup else 0.0
        for kept in _replay(forget, retain, config, rng):
            optimizer.zero_grad()
            smooth = 0.0 if config.soft_threshold else alpha
            objective(kept, next(leaving, None), smooth).backward()  # type: ignore[no-untyped-call]  # torch's own stub
            optimizer.step()
            if config.soft_threshold and alpha:
                soft_threshold(factors, blocks, optimizer.param_groups[0]["lr"] * alpha)
        schedule.step()


_Batch = tuple[Tensor, Tensor | None]


def _replay(forget: View, retain: View, config: FactorsConfig, rng: np.random.Generator) -> Iterator[_Batch]:
    """Yield the kept batches of an epoch; with few shots, at least as many as batches to forget."""
    yield from retain.batches(config.batch_size, rng)
    if config.shots is not None:
        missing = -(-len(forget) // config.batch_size) - -(-len(retain) // config.batch_size)
        for _, batch in zip(range(missing), endless(retain, config.batch_size, rng), strict=False):
            yield batch


def _objective(
    model: Classifier, factors: Factors, blocks: Blocks, config: FactorsConfig, centres: Tensor | None
) -> Callable[[_Batch, _Batch | None, float], Tensor]:
    bound = config.bound or max(10.0, 2 * math.log(model.classifier.out_features))
    model.train()

    def features(x: Tensor, weights: Mapping[str, Tensor]) -> Tensor:
        inner = {name.removeprefix("features."): value for name, value in weights.items()}
        h: Tensor = functional_call(model.features, inner, (x,))
        return h

    def forgetting(leaving: _Batch, weights: Mapping[str, Tensor]) -> Tensor:
        x, y = leaving
        h = features(x, weights)
        total = config.beta * bounded(F.cross_entropy(model.classifier(h), required(y)), bound)
        if centres is not None:
            divergence = prototype_divergence(h, centres[required(y)])
            total = total + config.push * bounded(divergence, config.prototype_bound)
        return total

    def loss(kept: _Batch, leaving: _Batch | None, alpha: float) -> Tensor:
        weights = effective(model, factors)
        x, y = kept
        h = features(x, weights)
        total = F.cross_entropy(model.classifier(h), required(y)) + alpha * block_norms(factors, blocks).sum()
        if leaving is not None:
            total = total + forgetting(leaving, weights)
        if centres is not None:
            total = total + config.pull * prototype_divergence(h, centres[required(y)])
        return total

    return loss


@torch.no_grad()
def merge(model: nn.Module, factors: Factors) -> None:
    """Add the factors to the weights, in place: W ← W + s B A."""
    for name, value in effective(model, factors).items():
        model.get_parameter(name).copy_(value)


def _forget(
    model: Classifier, forget: View, retain: View | None, config: GsLoraConfig, rng: np.random.Generator
) -> Classifier:
    blocks, kept = perceptrons(model, config.name), required(retain)
    classes = np.setdiff1d(required(kept.y).cpu().numpy(), required(forget.y).cpu().numpy())
    if config.unreplayed and config.unreplayed >= len(classes):
        raise FedsimError(f"--set {config.name}.unreplayed: {len(classes)} classes are kept; leave fewer of them out")
    left_out = frozenset(rng.permutation(classes)[: config.unreplayed].tolist())
    kept = some_samples(kept, config, rng, left_out)
    forget = some_samples(forget, config, rng, frozenset())
    model.requires_grad_(False)
    factors = new_factors(model, blocks, config.rank, rng)
    train_factors(model, factors, blocks, forget, kept, config, rng)
    merge(model, factors)
    return model.requires_grad_(True).eval()


@unlearning("gs_lora", GsLoraConfig, Needs(), {"class"})
def unlearn(
    model: Classifier, forget: View, retain: View | None, config: GsLoraConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with the trained factors merged (GS-LoRA)."""
    return _forget(model, forget, retain, config, rng)


@unlearning("gs_lora_pp", GsLoraPlusConfig, Needs(), {"class"})
def unlearn_with_prototypes(
    model: Classifier, forget: View, retain: View | None, config: GsLoraPlusConfig, rng: np.random.Generator
) -> Classifier:
    """Return the model with the trained factors merged (GS-LoRA++)."""
    return _forget(model, forget, retain, config, rng)
