"""The synthetic images of TARGET (arXiv:2303.06937, sections 4.2 and 4.3): a generator that inverts a model.

T is the model to invert, frozen and in evaluation mode, on the K classes it knows. S is a critic of the same
architecture, trained from scratch on the images made so far. G is the generator. With x = normalise(augment(G(z))),
z ~ N(0, I), and labels y uniform over the K classes:

    L_ce  = CE(T(x), y)
    L_bn  = sum_j ||mu_j(x) - M_j||_2 + ||var_j(x) - V_j||_2     of the input of each batch-norm layer j of T   (eq. 8)
    L_div = -mean_b w_b KL(p_T(x_b) || p_S(x_b)),    w_b = 1 where argmax T and argmax S differ                (eq. 7)
    L_G   = weight_ce L_ce + weight_boundary L_div + weight_statistics L_bn

A round of synthesis takes `steps` steps of Adam on a copy of G and on z, and keeps the B images with the lowest L_G. It
moves G itself by all of these steps together. Then S is trained on the kept images.

Differs from the authors' code: `w_b` is 1 where the two differ, as in the paper (`boundary: agree` is the code's). The
critic is trained before its loss is used (theirs: L_div sees an untrained critic for one round). S is re-initialised
completely (theirs: it keeps T's classifier and running statistics). The last images are kept, not those whose file
names sort first. The critic's cosine schedule spans the actual rounds, not 200. The constants released for CIFAR-100
make 10 rounds with a warm-up of 20, so the critic is never used; the defaults here are ours.
"""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Literal, NamedTuple, Self

import numpy as np
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from fedsim.data.config import Augment
from fedsim.data.transforms import augment, crop_padding, draw_augmentation, normalize
from fedsim.models.base import Classifier
from fedsim.randomness import generator, torch_draws, torch_seed
from fedsim.schema import Config
from fedsim.training.objectives import kl_divergence

Boundary = Literal["disagree", "agree"]


class SynthesisConfig(Config):
    """Options of the synthesis of images."""

    images: int = Field(1920, ge=1)
    """Images kept for the clients: the last that were made."""
    rounds: int = Field(30, ge=1)
    """N, rounds of synthesis; each makes `batch` images."""
    batch: int = Field(64, ge=2)
    """B, images per round, and per step of the critic."""
    steps: int = Field(20, ge=1)
    """g, steps per round of a copy of the generator and of z."""
    warmup: int = Field(5, ge=0)
    """Rounds before the critic is first trained."""
    critic_steps: int = Field(25, ge=0)
    """SGD steps of the critic in each round after the warm-up; 0: no critic."""
    critic_temperature: float = Field(5.0, gt=0)
    """Temperature of the critic's distillation."""
    critic_lr: float = Field(0.05, gt=0)
    """Learning rate of the critic; it falls to a thousandth along a cosine."""
    weight_ce: float = Field(0.5, ge=0)
    """Weight of L_ce."""
    weight_boundary: float = Field(1.0, ge=0)
    """Weight of L_div; lambda_1 in the paper."""
    weight_statistics: float = Field(10.0, ge=0)
    """Weight of L_bn; lambda_2 in the paper."""
    boundary: Boundary = "disagree"
    """Where w_b is 1: where model and critic differ, as in the paper, or agree, as in the authors' code."""
    meta: Literal["maml", "reptile"] = "maml"
    """How the generator follows its copy: by the sum of the copy's gradients, or towards the copy's end point."""
    momentum_statistics: bool = True
    """Compare T's statistics with a running mean over the rounds of synthesis."""
    lr: float = Field(0.002, gt=0)
    """Learning rate of the generator."""
    noise_lr: float = Field(0.01, gt=0)
    """Learning rate of z."""
    noise_dim: int = Field(64, ge=1)
    """Dimension of z."""
    width: int = Field(32, ge=1)
    """Channels of the generator's last hidden layer; the others have twice as many."""

    @model_validator(mode="after")
    def _makes_enough(self) -> Self:
        if self.images > self.rounds * self.batch:
            raise ValueError(
                f"{self.rounds} rounds of {self.batch} make {self.rounds * self.batch} images, fewer than "
                f"images={self.images}; raise rounds"
            )
        return self


class Space(NamedTuple):
    """The space of the images: their shape, normalisation and augmentation."""

    shape: tuple[int, ...]
    """(C, H, W)."""
    mean: Tensor
    std: Tensor
    augment: Augment

    def read(self, images: Tensor, rng: np.random.Generator) -> Tensor:
        """Return images in [0, 1], (B, C, H, W), augmented and normalised; it is differentiable."""
        pad = crop_padding(self.shape)
        if self.augment != "none":
            draws = torch.from_numpy(draw_augmentation(rng, len(images), self.augment, pad)).to(images.device)
            images = augment(images, draws, pad)
        return (images - self.mean[:, None, None]) / self.std[:, None, None]


class Generator(nn.Module):
    """Two upsampling blocks from z (B, noise_dim) to images in (0, 1), (B, C, H, W); H and W are multiples of 4."""

    def __init__(self, noise_dim: int, width: int, shape: tuple[int, ...]) -> None:
        super().__init__()
        channels, height, image_width = shape
        self.base = (2 * width, height // 4, image_width // 4)
        self.project = nn.Linear(noise_dim, math.prod(self.base))
        self.blocks = nn.Sequential(
            nn.BatchNorm2d(2 * width),
            *_up(2 * width, 2 * width),
            *_up(2 * width, width),
            nn.Conv2d(width, channels, 3, padding=1),
            nn.Sigmoid(),
        )

    def forward(self, z: Tensor) -> Tensor:
        """Return the images of z."""
        images: Tensor = self.blocks(self.project(z).view(-1, *self.base))
        return images


def _up(inputs: int, outputs: int) -> list[nn.Module]:
    return [
        nn.Upsample(scale_factor=2),
        nn.Conv2d(inputs, outputs, 3, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.LeakyReLU(0.2),
    ]


# The losses -----------------------------------------------------------------------------------------------------------


def boundary_loss(logits: Tensor, critic_logits: Tensor, boundary: Boundary) -> Tensor:
    """Return L_div of two sets of logits (B, K), shape (), never above 0; eq. 7."""
    differ = logits.argmax(1) != critic_logits.argmax(1)
    w = differ if boundary == "disagree" else ~differ
    divergence = kl_divergence(logits.log_softmax(1), critic_logits.log_softmax(1))
    return -(w.to(divergence) * divergence).mean()


class Statistics:
    """The input statistics of a model's batch-norm layers, recorded while it is entered."""

    def __init__(self, model: nn.Module) -> None:
        self._layers = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        self._hooks: list[torch.utils.hooks.RemovableHandle] = []
        self.inputs: list[tuple[Tensor, Tensor]] = []
        """(mean, biased variance), each (C,), of every layer in the newest forward pass."""
        self.running: list[tuple[Tensor, Tensor]] = []
        """Running means of these statistics over the rounds of synthesis; empty before the first `update`."""

    def __enter__(self) -> Self:
        def note(layer: nn.Module, given: tuple[Tensor, ...]) -> None:
            axes = [axis for axis in range(given[0].dim()) if axis != 1]
            x = given[0].float() if given[0].dtype == torch.bfloat16 else given[0]
            self.inputs.append((x.mean(axes), x.var(axes, correction=0)))

        self._hooks = [layer.register_forward_pre_hook(note) for layer in self._layers]
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def loss(self, momentum: float) -> Tensor:
        """Return L_bn of the newest forward pass, shape (): sum_j ||mu_j - M_j|| + ||var_j - V_j||; eq. 8.

        Once there are running means, the statistics are momentum * running + (1 - momentum) * newest.
        """
        total = self.inputs[0][0].new_zeros(())
        for number, (layer, newest) in enumerate(zip(self._layers, self.inputs, strict=True)):
            for kind, (value, known) in enumerate(zip(newest, (layer.running_mean, layer.running_var), strict=True)):
                assert known is not None
                mixed = value
                if self.running:
                    mixed = momentum * self.running[number][kind] + (1 - momentum) * value
                total = total + (mixed - known).norm()
        return total

    def update(self, momentum: float) -> None:
        """Move the running means towards the newest statistics."""
        newest = [(mean.detach(), var.detach()) for mean, var in self.inputs]
        before = self.running or newest
        self.running = [
            (momentum * old[0] + (1 - momentum) * new[0], momentum * old[1] + (1 - momentum) * new[1])
            for old, new in zip(before, newest, strict=True)
        ]


_MOMENTUM = 0.9  # momentum of the running statistics, in the authors' code
_REPTILE = 67.0  # the authors' factor of theta_G - theta_G'


class Made(NamedTuple):
    """The result of a synthesis."""

    images: Tensor
    """(images, C, H, W) uint8, on the CPU."""
    critic: Classifier
    """S, on the K classes; only for its accuracy."""
    histogram: Tensor
    """(K,) share of the images that T assigns to each class."""


def synthesize(
    model: Classifier,
    critic: Classifier,
    classes: Tensor,
    space: Space,
    options: SynthesisConfig,
    address: tuple[int, int],
    tick: Callable[[], None] = lambda: None,
    forward: Callable[[], AbstractContextManager[object]] = nullcontext,
) -> Made:
    """Return images that `model` classifies as samples of `classes`.

    Parameters
    ----------
    model
        T; it is not changed.
    critic
        S, of the same architecture; it is initialised and trained here.
    classes
        (K,) int64, the classes that T knows.
    space
        Format of the images.
    options
        Options of the synthesis.
    address
        (run seed, stage) of all draws.
    tick
        Called after every round of synthesis.
    forward
        Makes the context of T's and S's forward passes, such as mixed precision.

    Raises
    ------
    FloatingPointError
        If L_G is not finite.
    """
    # A critic with dropout draws from torch's own generator.
    with torch_draws(torch_seed(address[0], "critic dropout", address[1]), space.mean.device):
        return _Synthesis(model, critic, classes, space, options, address, forward).run(tick)


class _Synthesis:
    def __init__(
        self, model: Classifier, critic: Classifier, classes: Tensor, space: Space, options: SynthesisConfig,
        address: tuple[int, int], forward: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> None:  # fmt: skip
        seed, stage = address
        self.space, self.classes, self.options, self.forward = space, classes, options, forward
        self.device, self.dtype = space.mean.device, space.mean.dtype
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        self.statistics = Statistics(self.model)
        with torch_draws(torch_seed(seed, "critic", stage)), torch.device("cpu"):
            initialise(critic)
        with torch_draws(torch_seed(seed, "generator", stage)), torch.device("cpu"):
            generator_ = Generator(options.noise_dim, options.width, space.shape)
        self.critic, self.generator = critic.to(space.mean), generator_.to(space.mean)
        lr = options.lr * options.steps
        self.meta = torch.optim.Adam(self.generator.parameters(), lr=lr, betas=(0.5, 0.999))
        self.critic_sgd = torch.optim.SGD(critic.parameters(), options.critic_lr, momentum=0.9, weight_decay=1e-4)
        # For all draws except initial weights: on the CPU, so that they do not depend on the device.
        self.torch_rng = torch.Generator().manual_seed(torch_seed(seed, "synthesis", stage))
        self.rng = generator(seed, "synthesis", stage)
        self.images = torch.empty(0, *space.shape, dtype=torch.uint8)
        self.critic_is_trained = False

    def run(self, tick: Callable[[], None]) -> Made:
        options = self.options
        for number in range(1, options.rounds + 1):
            with self.statistics:
                images = self.generate()
                self.statistics.update(_MOMENTUM)
            self.images = torch.cat([self.images, images])[-options.images :]
            if number > options.warmup and options.critic_steps:
                self.train_critic(number)
            tick()
        return Made(self.images, self.critic.eval(), self.histogram())

    def logits(self, model: Classifier, x: Tensor) -> Tensor:
        """Return the logits of the known classes, (B, K)."""
        with self.forward():
            logits: Tensor = model(x)
        return logits[:, self.classes].to(self.dtype)

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        """Return L_G of normalised images x (B, ...) and labels y (B,), given as positions in `classes`."""
        options = self.options
        self.statistics.inputs.clear()
        logits = self.logits(self.model, x)
        loss = options.weight_ce * F.cross_entropy(logits, y)
        if options.weight_statistics:
            momentum = _MOMENTUM if options.momentum_statistics else 0.0
            loss = loss + options.weight_statistics * self.statistics.loss(momentum)
        if options.weight_boundary and self.critic_is_trained:
            divergence = boundary_loss(logits, self.logits(self.critic, x), options.boundary)
            loss = loss + options.weight_boundary * divergence
        return loss

    def generate(self) -> Tensor:
        """Take one round of steps with the generator; return its best images, (B, C, H, W) uint8 on the CPU."""
        options = self.options
        z = torch.randn(options.batch, options.noise_dim, generator=self.torch_rng).to(self.space.mean).requires_grad_()
        y = torch.randint(len(self.classes), (options.batch,), generator=self.torch_rng).to(self.device)
        fast = copy.deepcopy(self.generator).train()
        slow, quick = list(self.generator.parameters()), list(fast.parameters())
        groups = [{"params": quick, "lr": options.lr}, {"params": [z], "lr": options.noise_lr}]
        adam = torch.optim.Adam(groups, betas=(0.5, 0.999))
        sums = [torch.zeros_like(p) for p in slow]
        best, lowest = torch.empty(0), math.inf
        self.critic.eval().requires_grad_(False)
        for _ in range(options.steps):
            images = fast(z)
            loss = self.loss(self.space.read(images, self.rng), y)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise FloatingPointError("the loss of the generator is no longer a number")
            if value < lowest:
                best, lowest = images.detach(), value
            gradients = torch.autograd.grad(loss, [*quick, z])
            for total, gradient in zip(sums, gradients, strict=False):  # without z
                total += gradient
            for leaf, gradient in zip([*quick, z], gradients, strict=True):
                leaf.grad = gradient
            adam.step()
        for own, other, total in zip(slow, quick, sums, strict=True):
            own.grad = total if options.meta == "maml" else _REPTILE * (own.detach() - other.detach())
        self.meta.step()
        return (255 * best).floor().to(torch.uint8).cpu()

    def train_critic(self, number: int) -> None:
        """Distil T into the critic on the images kept so far."""
        options = self.options
        share = (number - 1) / options.rounds
        low = options.critic_lr / 1000
        for group in self.critic_sgd.param_groups:
            group["lr"] = low + (options.critic_lr - low) * (1 + math.cos(math.pi * share)) / 2
        self.critic.train().requires_grad_(True)
        for index in self.batches(options.critic_steps):
            x = self.space.read(self.images[index].to(self.space.mean) / 255, self.rng)
            with torch.no_grad():
                p = (self.logits(self.model, x) / options.critic_temperature).log_softmax(1)
            q = (self.logits(self.critic, x) / options.critic_temperature).log_softmax(1)
            loss = kl_divergence(p, q).mean() * options.critic_temperature**2
            leaves = list(self.critic.parameters())
            for leaf, gradient in zip(leaves, torch.autograd.grad(loss, leaves), strict=True):
                leaf.grad = gradient
            self.critic_sgd.step()
        self.critic_is_trained = True

    def batches(self, count: int) -> Iterator[Tensor]:
        """Yield `count` batches of positions of images, in shuffled passes."""
        order = torch.empty(0, dtype=torch.int64)
        size = min(self.options.batch, len(self.images))
        for _ in range(count):
            if len(order) < size:
                order = torch.randperm(len(self.images), generator=self.torch_rng)
            yield order[:size]
            order = order[size:]

    @torch.no_grad()
    def histogram(self) -> Tensor:
        """Return the share of the images that T assigns to each class, (K,)."""
        mean, std = self.space.mean, self.space.std
        parts = [
            self.logits(self.model, normalize(some.to(self.device), mean, std, self.dtype)).argmax(1)
            for some in torch.split(self.images, 500)
        ]
        return torch.bincount(torch.cat(parts), minlength=len(self.classes)).cpu() / len(self.images)


def initialise(model: nn.Module) -> None:
    """Re-initialise a model: Xavier's normal distribution for weights, N(1, 0.02) for scales, 0 for shifts."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, _BatchNorm):
            layer.reset_running_stats()
            nn.init.normal_(layer.weight, 1.0, 0.02)
            nn.init.zeros_(layer.bias)
