"""Evaluates the `privacy:` section before the first round: refusals, the amount of noise, and the ledger."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

import numpy as np
import numpy.typing as npt
from torch import nn

from fedsim.config.run import RunConfig
from fedsim.data.federation import FederatedData
from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from fedsim.federated.sampling import draw_cohort
from fedsim.federated.server import Server
from fedsim.federated.types import Phase, State
from fedsim.models.build import has_batch_coupling
from fedsim.privacy import ledger as ledgers
from fedsim.privacy.accountant import calibrate
from fedsim.privacy.address import Secrets
from fedsim.privacy.central import UNCLIPPED, CentralPrivacy
from fedsim.privacy.config import NoiseConfig
from fedsim.privacy.guarantees import in_words, promised_units
from fedsim.privacy.ledger import Ledger, Release
from fedsim.privacy.mechanisms import require_delta
from fedsim.training.dp_sgd import sampling_rate, steps_of

Sizes = npt.NDArray[np.int64]
C = TypeVar("C", bound=NoiseConfig)

DP_SGD = "gradients of DP-SGD"

_FOLDER = Release(
    what="the run folder", covers=("folder/*",),
    note="holds the seed of all noise, the partition, class counts and clients' own states; publish the model alone",
)  # fmt: skip
_PUBLIC = Release(
    what="numbers of classes and samples, input normalisation, the global test set", covers=("public/*",),
    note="taken to be public, as are all options",
)  # fmt: skip
_VALIDATION = Release(
    what="accuracy and loss on what clients hold out", covers=("validation/*",), note="without noise",
)  # fmt: skip
_COHORTS = Release(what="which clients answer", covers=("cohorts/*",), note="taken to be public")


def calibrated(config: RunConfig, sizes: Sizes, new_client: Callable[[], Client]) -> tuple[RunConfig, dict[str, str]]:
    """Return the configuration with every `target_epsilon` replaced by a noise multiplier, and a note on each.

    Parameters
    ----------
    sizes
        (C,) samples of each client.
    new_client
        Returns the client half; its phases determine the number of steps.

    Raises
    ------
    FedsimError
        If a target is too small to be reached, or a delta is too large for a meaningful guarantee.
    """
    chosen: dict[str, str] = {}
    central, example = config.privacy.client, config.privacy.example
    if central is not None and central.target_epsilon is not None:
        schedules, fixed = [(_client_rate(config, sizes), config.rounds)], _has_substitutes(config)
        central, chosen["client privacy"] = _with_noise(central, "client", schedules, fixed=fixed)
    if example is not None:
        require_delta("privacy.example.delta", example.delta, int(sizes.max()), "samples of the largest client")
    if example is not None and example.target_epsilon is not None:
        rates, steps = _example_schedule(config, sizes, new_client())
        rounds = Counter(client for number in range(config.rounds) for client in draw_cohort(config, sizes, number + 1))
        if central is not None:  # the cohorts depend on the noise, which is not known yet
            rounds = Counter(dict.fromkeys(np.flatnonzero(sizes).tolist(), config.rounds))
        schedules = [(rates[client], steps[client] * count) for client, count in rounds.items()]
        example, chosen["example privacy"] = _with_noise(example, "example", schedules)
    privacy = config.privacy.model_copy(update={"client": central, "example": example})
    return config.model_copy(update={"privacy": privacy}), chosen


def require_possible(config: RunConfig, model: nn.Module, server: Server, client: Client) -> None:
    """Refuse a run whose guarantee would not hold.

    Raises
    ------
    FedsimError
        If the model or the method breaks an assumption of the mechanism.
    """
    name = config.strategy.name
    levels = [level for level in ("client", "example") if getattr(config.privacy, level) is not None]
    for level in levels:
        if has_batch_coupling(model):
            why = "BatchNorm mixes the samples of a batch, so clipping does not bound what one of them does"
            raise FedsimError(f"privacy.{level}: {why}; {config.model.way_to('group')}")
        if server.reads_metrics:
            raise FedsimError(
                f"privacy.{level}: {name} steers its model by clients' metrics, which carry no noise; "
                f"use another method"
            )
        if client.queries():
            raise FedsimError(
                f"privacy.{level}: clients of {name} also answer queries, which carry no noise; use another method"
            )
        for release in client.releases():
            if release.mechanism == "none" and any(_steers(item) for item in release.covers):
                raise FedsimError(
                    f"privacy.{level}: clients of {name} also send their {release.what}, which would carry no noise; "
                    f"use another method"
                )
    plain = all(
        phase.streams == ("labelled",) and phase.annotate is None and phase.shared is None for phase in client.phases()
    )
    if "example" in levels and not plain:
        raise FedsimError(
            f"privacy.example: clients of {name} learn from more than single labelled samples; use another method"
        )
    averages = (
        server.one_wave
        and type(server).aggregate is Server.aggregate
        and type(server).aggregate_train is Server.aggregate_train
    )
    if "client" in levels and not averages:
        raise FedsimError(
            f"privacy.client: {name} does not average its clients' updates, which is what the noise is for; "
            f"use another method, such as fedavg"
        )


def central_privacy(config: RunConfig, data: FederatedData) -> CentralPrivacy | None:
    """Return the server's part of client-level privacy, if the run has any.

    Raises
    ------
    FedsimError
        If the noise on the number of unclipped clients is too small.
    """
    central = config.privacy.client
    if central is None:
        return None
    return CentralPrivacy(central, config.cohort_size, Secrets(config, data.content_hash))


def new_ledger(config: RunConfig, sizes: Sizes, client: Client) -> Ledger:
    """Return the ledger of a run that has not started."""
    releases = [*client.releases(), _FOLDER, _PUBLIC]
    releases += [_VALIDATION] if config.data.validation_fraction else []
    central = config.privacy.client
    secret = central is not None and _client_rate(config, sizes) < 1
    releases.append(_COHORTS.model_copy(update={"note": "epsilon takes it to be secret"}) if secret else _COHORTS)
    if (example := config.privacy.example) is not None:
        rates, steps = _example_schedule(config, sizes, client)
        releases.append(
            Release(
                what=DP_SGD,
                covers=("model",),
                mechanism="gaussian",
                unit="example",
                noise=example.noise,
                delta=example.delta,
                sampling_rate=tuple(rates),
                times=tuple(steps),
                note=f"an example is a {client.item}; clients hold disjoint data: epsilon is the largest of one; "
                "drawing clients amplifies nothing",
            )
        )
    if central is not None:
        releases += _client_releases(config, sizes)
    return Ledger(
        releases=tuple(releases), took_part=[0] * config.clients, noise=config.privacy.noise,
        recipe=f"{Secrets(config).key:032x}",
    )  # fmt: skip


def inherited_ledger(config: RunConfig) -> Ledger | None:
    """Return the ledger of the run whose model this one starts from; None without such a run.

    Raises
    ------
    FedsimError
        If that run promises privacy for a unit that this run does not protect, unless `privacy.given_up` is set.
    """
    if config.start is None:
        return None
    folder = config.start if config.start.is_dir() else config.start.parent
    if not ledgers.exists(folder):
        return None
    found = Ledger.read(folder)
    kept = {"client": config.privacy.client is not None, "example": config.privacy.example is not None}
    ended = [unit for unit in promised_units(found, ended=False) if not kept.get(unit, False)]
    if ended and not config.privacy.given_up:
        raise FedsimError(
            f"start: {config.start} promises privacy of {in_words(ended)}, and this run trains "
            f"without; set privacy.{ended[0]}, or privacy.given_up=true"
        )
    return found


def _client_releases(config: RunConfig, sizes: Sizes) -> list[Release]:
    """Return the releases of client-level privacy, one for each adjacency.

    In cohorts of one size, of fewer than all, another client takes the place of one that leaves: the sum moves by up to
    2 S, as it does where the client is replaced. Where it is still drawn and adds nothing, by up to S, and no sampling
    is needed for that.
    """
    central = config.privacy.client
    assert central is not None
    rate, fixed = _client_rate(config, sizes), _has_substitutes(config)
    bits = (f"arrays/{UNCLIPPED}",) if central.clipping == "adaptive" else ()
    able = int(np.count_nonzero(sizes))
    notes = ["the server is trusted with each client's update"]
    if rate < 1:
        notes.append("who is in a cohort has to stay secret")
    if able < config.clients_seen and not fixed:
        share = able / config.clients_seen
        notes.append(
            f"{able} of {config.clients_seen} clients have data, so that a step is {share:.2f} of the mean update"
        )
    mean = Release(
        what="mean of clipped updates", covers=("model", *bits), mechanism="gaussian", unit="client", against="readers",
        noise=central.noise, delta=central.delta, sampling_rate=rate, when="every round", note="; ".join(notes),
    )  # fmt: skip
    if not fixed:
        return [mean]
    another = [*notes, "it is true of one added or removed too: another takes its place"]
    replaced = {"adjacency": "replaced", "noise": central.noise / 2, "sampling": "fixed", "note": "; ".join(another)}
    zeroed = {"adjacency": "zeroed out", "sampling_rate": 1.0, "note": "cohorts need not be secret for this"}
    return [mean.model_copy(update=changes) for changes in (replaced, zeroed)]


def _has_substitutes(config: RunConfig) -> bool:
    """Return whether cohorts have a fixed size that is smaller than the number of clients."""
    central = config.privacy.client
    return central is not None and central.sampling == "fixed" and config.cohort_size < config.clients_seen


def _client_rate(config: RunConfig, sizes: Sizes) -> float:
    """Return the largest probability with which a client that has data is drawn."""
    central = config.privacy.client
    assert central is not None
    if central.sampling == "poisson":
        return config.cohort_size / config.clients_seen
    return min(1.0, config.cohort_size / max(1, int(np.count_nonzero(sizes)))) if _has_substitutes(config) else 1.0


def _example_schedule(config: RunConfig, sizes: Sizes, client: Client) -> tuple[list[float], list[int]]:
    """Return every client's sampling rate, and the number of its steps in a round in which it takes part."""
    phases = [phase for phase in client.phases() if _releases(phase, client)]
    steps = [sum(steps_of(phase, config.training, int(size)) for phase in phases) for size in sizes]
    return [sampling_rate(int(size), config.training.batch_size) for size in sizes], steps


def _releases(phase: Phase, client: Client) -> bool:
    """Return whether a phase trains tensors that the client sends to the server."""
    names = client.initial.keys() | client.personal(0, State(client.initial, {})).params.keys()
    return any(phase.trains(name) and not phase.stays(name) for name in names)


def _steers(item: str) -> bool:
    """Return whether the server computes with this item of a reply, and the item is not the model."""
    return item.startswith(("arrays/", "query.")) and not item.endswith("/num-examples")


def _with_noise(config: C, level: str, schedules: Sequence[tuple[float, int]], *, fixed: bool = False) -> tuple[C, str]:
    assert config.target_epsilon is not None
    try:
        noise = calibrate(config.target_epsilon, config.delta, schedules, fixed=fixed)
    except ValueError as error:
        raise FedsimError(f"privacy.{level}.target_epsilon: {error}; raise it") from None
    if fixed:  # it was found for a sensitivity of 2 S
        noise *= 2
    told = f"noise multiplier {noise:.4g} for epsilon {config.target_epsilon:g}"
    return config.model_copy(update={"noise_multiplier": noise, "target_epsilon": None}), told
