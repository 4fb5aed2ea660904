"""Draw the clients that take part in a round."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from fedsim.config.run import RunConfig
from fedsim.privacy.address import Secrets
from fedsim.randomness import generator


def draw_cohort(
    config: RunConfig, sizes: npt.NDArray[np.int64], server_round: int, secrets: Secrets | None = None
) -> Sequence[int]:
    """Return the clients of a round, largest first; `sizes` are the numbers of samples of all clients, (K,).

    `secrets` draws them if they must stay secret.
    """
    rng = generator(config.seed, "cohort", server_round) if secrets is None else secrets.coins("cohort", server_round)
    sizes = np.where(np.arange(len(sizes)) < config.clients_seen, sizes, 0)
    central = config.privacy.client
    if central is not None and central.sampling == "poisson":
        return poisson_cohort(rng, sizes, config.cohort_size / config.clients_seen)
    return sample_cohort(rng, sizes, config.cohort_size)


def poisson_cohort(rng: np.random.Generator, sizes: npt.NDArray[np.int64], rate: float) -> Sequence[int]:
    """Return clients with data, each drawn independently with probability `rate`; possibly none."""
    drawn = np.flatnonzero((rng.random(len(sizes)) < rate) & (sizes > 0))
    return _largest_first(drawn, sizes)


def sample_cohort(rng: np.random.Generator, sizes: npt.NDArray[np.int64], cohort: int) -> Sequence[int]:
    """Return the clients of a round, drawn without replacement from those with data, largest first.

    Every client draws a random number, and the lowest ones take part. So a federation without some client has the same
    cohort in every round in which that client was not drawn. Largest first lets long chunks start early, and puts
    clients of similar size into one chunk.
    """
    lots = rng.random(len(sizes))
    able = np.flatnonzero(sizes)
    lowest = np.argpartition(lots[able], cohort)[:cohort] if cohort < len(able) else slice(None)
    return _largest_first(np.sort(able[lowest]), sizes)


def _largest_first(drawn: npt.NDArray[np.intp], sizes: npt.NDArray[np.int64]) -> Sequence[int]:
    return drawn[np.argsort(-sizes[drawn], kind="stable")].tolist()  # type: ignore[no-any-return]
