"""Learning from aggregate responses: clients only know each bag's mean response, with label privacy (arXiv:2401.11081).

Once, before round 1, client c cuts its samples at random into M_c bags of k; samples that do not fill a bag are not
used. It clips every response to [-B, B], averages per bag, adds noise, and discards the responses:

    ytilde_a = (1/k) sum_{i in B_a} clip(y_i, -B, B) + Lap(2B / (k eps))          eps-label-DP, one response replaced
    or + N(0, (tau 2B / k)^2), tau the least noise per sensitivity that is (eps, delta)-DP

Client, each round: SGD over bags, with f_i = f_w(x_i) and fbar_a their mean over the bag, on

    l_a(w) = (ytilde_a - fbar_a)^2 + rho * mean_i (f_i - fbar_a)^2                 L_rho = (1-rho) L_bag + rho L_ins

Server: mean of w weighted by M_c. rho = 0 is the bag-level loss, and rho = 1 the instance-level loss. In between, the
loss is less biased than the instance-level loss and less noisy than the bag-level loss. Values above 1 are allowed, and
help under heavy noise.

Classes: ytilde_a holds the shares of the classes in the bag; L_bag is the cross-entropy of the mean prediction, L_ins
the mean cross-entropy, L_rho as above. For two classes, one share is released; for more, all of them.

Every response is in one bag and is released once: the guarantee does not weaken with rounds, bags or clients. It covers
neither features nor the number of samples. The noise comes from the run's seed, the mechanism and the bags' responses.
So everything that trains on the same means sees the same release, and other means have other noise. This simulates the
mechanism; it is not meant for deployment.

Differs from the paper: the paper quotes the noise scale B / (k eps), which is 2 eps-label-DP. Responses are clipped
before they are averaged. The penalty is scaled so that rho = 1 is exactly the instance-level loss. Classes and the
federation are ours.
"""

import math
from dataclasses import replace
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from pydantic import Field, field_validator
from torch import Tensor

from fedsim.config.run import RunConfig
from fedsim.config.strategy import StrategyConfig
from fedsim.data.federation import FederatedData
from fedsim.data.held_out import matched_test
from fedsim.data.partition import Partition
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.registry import strategy
from fedsim.federated.server import Server
from fedsim.federated.types import Batch, Extras
from fedsim.flower.records import Tensors
from fedsim.privacy.address import digest
from fedsim.privacy.ledger import Release
from fedsim.privacy.mechanisms import gaussian_noise_multiplier, laplace_scale, require_delta
from fedsim.randomness import generator
from strategies.aggregate_theory import best_bag_size

Floats = npt.NDArray[np.float64]

_MOST_IN_A_BAG = 64
"""The largest bag that `auto` considers."""


class AggregateConfig(StrategyConfig):
    """Options of learning from aggregate responses."""

    bag_size: int | Literal["auto"] = 4
    """k, samples per bag; auto chooses the k with the least risk that the theory of linear models predicts."""
    rho: float = Field(0.1, ge=0)
    """Weight of the penalty: 0 is the bag-level loss, 1 the instance-level loss."""
    epsilon: float | None = Field(1.0, ge=1e-6)
    """Label privacy of one response; null releases exact means without clipping."""
    mechanism: Literal["laplace", "gaussian"] = "laplace"
    """Distribution of the noise."""
    delta: float = Field(1e-5, gt=0, lt=1)
    """delta of the Gaussian mechanism; Laplace has none."""
    clip: float = Field(3.5, gt=0)
    """B, to which numeric responses are clipped, in the units of the targets; it must not depend on the data."""
    noise_share: float = Field(0.2, ge=0, le=1)
    """For bag_size auto: the share of the responses' variance, taken as 1, that no linear model explains."""

    @field_validator("bag_size", mode="before")
    @classmethod
    def _number_or_auto(cls, value: object) -> object:
        if value != "auto" and not (isinstance(value, int) and value >= 1):
            raise ValueError("must be a whole number from 1, or auto")
        return value


def squared_errors(y: Tensor, f: Tensor) -> tuple[Tensor, Tensor]:
    """Return per bag (ybar - fbar)^2 and mean_i (f_i - fbar)^2, which is L_ins - L_bag; y (B,), f (B, k) -> (B,)."""
    f_bar = f.mean(1)
    return (y - f_bar).square(), (f - f_bar[:, None]).square().mean(1)


def cross_entropies(y: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    """Return per bag L_bag = CE(ybar, mean_i p_i) and L_ins - L_bag >= 0; shares y (B, C), logits (B, k, C) -> (B,)."""
    log_p = logits.log_softmax(2)
    bag = -(y * (log_p.logsumexp(1) - math.log(log_p.shape[1]))).sum(1)
    return bag, -(y * log_p.mean(1)).sum(1) - bag


def sensitivities(k: int, num_classes: int, bound: float) -> tuple[float, float]:
    """Return the L1 and L2 sensitivity of a bag's release to one replaced response.

    A number in [-B, B] moves the mean by at most 2B/k. With two classes, the released share moves by at most 1/k; with
    more, two shares move by 1/k each. `num_classes` is 1 for numbers.
    """
    if num_classes > 2:
        return 2 / k, math.sqrt(2) / k
    reach = (2 * bound if num_classes == 1 else 1) / k
    return reach, reach


def bag_means(y: npt.NDArray[np.generic], num_classes: int, bound: float | None) -> Floats:
    """Return the release of bags before noise: means of clipped numbers (M, 1), share of class 1, or all shares.

    `y` (M, k) holds numbers or classes.

    Raises
    ------
    ValueError
        If a number is not finite: clipping would not bound it.
    """
    if num_classes > 1:
        shares: Floats = (y[:, :, None] == np.arange(num_classes)).mean(axis=1)
        return shares[:, 1:] if num_classes == 2 else shares
    numbers = np.asarray(y, np.float64)
    if not np.isfinite(numbers).all():
        raise ValueError("responses must be finite")
    means: Floats = (numbers if bound is None else numbers.clip(-bound, bound)).mean(axis=1, keepdims=True)
    return means


def add_noise(means: Floats, options: AggregateConfig, k: int, num_classes: int, rng: np.random.Generator) -> Floats:
    """Return `means` (M, ...) with noise of the mechanism, calibrated to `sensitivities`."""
    if options.epsilon is None:
        return means
    l1, l2 = sensitivities(k, num_classes, options.clip)
    if options.mechanism == "laplace":
        return means + rng.laplace(scale=laplace_scale(options.epsilon, l1), size=means.shape)
    return means + rng.normal(scale=l2 * gaussian_noise_multiplier(options.epsilon, options.delta), size=means.shape)


def as_targets(released: Floats, num_classes: int) -> Floats:
    """Return training targets: numbers (M,), or shares (M, C) projected onto the simplex, which costs no privacy."""
    if num_classes == 1:
        return released[:, 0]
    if num_classes == 2:
        share = released.clip(0, 1)
        return np.concatenate([1 - share, share], axis=1)
    # The nearest point of the simplex: subtract the constant that makes the positive parts sum to 1.
    falling = -np.sort(-released, axis=1)
    excess = (falling.cumsum(axis=1) - 1) / np.arange(1, num_classes + 1)
    last = (falling > excess).sum(axis=1, keepdims=True) - 1
    nearest: Floats = (released - np.take_along_axis(excess, last, axis=1)).clip(0)
    return nearest


def _mechanism(options: AggregateConfig, k: int) -> dict[str, object]:
    """Return everything that the noise of a bag's mean depends on."""
    return {"k": k, **options.model_dump(mode="json", include={"epsilon", "mechanism", "delta", "clip"})}


def choose_bag_size(options: AggregateConfig, data: FederatedData) -> int:
    """Return k: as configured, or the one with the least `private_risk` among bags that every client can fill."""
    if options.bag_size != "auto":
        return options.bag_size
    if not data.dataset.is_regression:
        raise FedsimError("strategy.bag_size: auto is derived for numbers to predict, not classes; give a number")
    sizes = data.partition.sizes
    psi = sizes.sum() / math.prod(data.dataset.input_shape)
    able = range(1, min(int(sizes[sizes > 0].min()), _MOST_IN_A_BAG) + 1)
    share = options.noise_share
    try:
        return best_bag_size(able, psi, options.rho, options.epsilon, bound=options.clip, signal=1 - share, noise=share)
    except ValueError as error:
        raise FedsimError(f"strategy.bag_size: auto cannot choose ({error}); give a number") from None


def _require_delta(options: AggregateConfig, data: FederatedData) -> None:
    largest = int(data.partition.sizes.max())
    if options.epsilon is not None and options.mechanism == "gaussian":
        require_delta("strategy.delta", options.delta, largest, "samples of the largest client")
        try:
            gaussian_noise_multiplier(options.epsilon, options.delta)
        except ValueError as error:
            raise FedsimError(f"strategy.epsilon: {error}; raise it") from None


def aggregate_responses(config: RunConfig, data: FederatedData) -> FederatedData:
    """Return data whose items are bags: x (M, k, ...) and noisy targets (M,) or (M, C), without single responses.

    The bags and the noise are drawn once per client, with seeds that do not depend on the round.

    Raises
    ------
    FedsimError
        If the configuration would use responses in another way, or no client can fill a bag.
    """
    options = config.strategy
    assert isinstance(options, AggregateConfig)
    if config.data.client_test == "split":
        raise FedsimError("data.client_test: a test on single responses would show them; must be matched")
    if config.data.augment != "none":
        raise FedsimError("data.augment: bags are not augmented; must be none")
    if config.privacy.noise == "secure":
        raise FedsimError(
            "privacy.noise: bags' means are released once, and --resume has to draw their noise again; must be seeded"
        )
    dataset, k = data.dataset, choose_bag_size(options, data)
    _require_delta(options, data)
    bound = None if options.epsilon is None else options.clip
    rows, targets, counts = [], [], []
    for client in range(len(data.partition)):
        own = data.partition[client]
        bags = generator(config.seed, "bags", client).permutation(own)[: len(own) // k * k].reshape(-1, k)
        means = bag_means(dataset.y_train[bags], dataset.num_classes, bound)
        address = digest(_mechanism(options, k), dataset.y_train[bags])
        rng = generator(config.seed, "label noise", client, address)
        targets.append(as_targets(add_noise(means, options, k, dataset.num_classes, rng), dataset.num_classes))
        rows.append(bags)
        counts.append(len(bags))
    total = sum(counts)
    if not total:
        raise FedsimError(f"strategy.bag_size: no client has {k} samples; lower it or the number of clients")
    bagged = replace(
        dataset,
        x_train=dataset.x_train[np.concatenate(rows)],
        y_train=np.concatenate(targets).astype(np.float32),
        identity_train=None,
    )
    partition = Partition(np.arange(total), np.concatenate([[0], np.cumsum(counts)]))
    # Test rows with a client's own class frequencies would reveal these, so any rows are used.
    alike, alike_test = (np.zeros(len(y), np.int64) for y in (dataset.y_train, dataset.y_test))
    tests = matched_test(data.partition, alike, alike_test, config.seed)
    nothing = Partition.from_lists([[]] * len(partition))
    return FederatedData(bagged, partition, tests, "test", np.array([total]), nothing)


class AggregateClient(Client):
    """SGD over bags."""

    item = "bag of samples"
    reports = ("loss_bag", "penalty", "bag_size")

    def releases(self) -> list[Release]:
        """Return the base's releases, and the noisy means, from which all of them are computed."""
        options = self.options(AggregateConfig)
        if options.epsilon is None:
            return super().releases()
        laplace = options.mechanism == "laplace"
        means = Release(
            what="bags' mean responses",
            covers=("model", "metrics/loss", *(f"metrics/{name}" for name in self.reports), "evaluation/*"),
            mechanism=options.mechanism,
            unit="response",
            adjacency="replaced",
            noise=1 / options.epsilon if laplace else gaussian_noise_multiplier(options.epsilon, options.delta),
            delta=0.0 if laplace else options.delta,
            when="once",
            note="features, numbers of samples, bag size, clip and the targets' scale are taken to be public; "
            "the noise is drawn from the run's seed, which must stay secret",
        )
        return [*super().releases(), means]

    def loss(self, params: Tensors, buffers: Tensors, extras: Extras, batch: Batch) -> tuple[Tensor, Tensors]:
        """Return L_rho of a batch of bags, x (B, k, ...); its two parts and k are the metrics."""
        outputs = self.model.logits(params, buffers, batch.x.flatten(0, 1), train=True)
        outputs = outputs.view(*batch.x.shape[:2], -1)
        of_numbers = batch.y.dim() == 1
        bag, spread = squared_errors(batch.y, outputs[:, :, 0]) if of_numbers else cross_entropies(batch.y, outputs)
        loss_bag, penalty = batch.mean(bag), batch.mean(spread)
        k = torch.full_like(penalty, batch.x.shape[1])
        metrics = {"loss_bag": loss_bag, "penalty": penalty, "bag_size": k}
        return loss_bag + self.options(AggregateConfig).rho * penalty, metrics


strategy(
    "aggregate",
    AggregateConfig,
    AggregateClient,
    Server,
    prepare=aggregate_responses,
    shows=("global/mse", "global/excess_risk", "global/r2"),
    metrics={
        "loss_bag": "squared error of bags' mean responses",
        "penalty": "R, the penalty on differences within a bag",
        "bag_size": "samples in a bag",
    },
)
