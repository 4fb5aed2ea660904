"""FedAccum and history subtraction: add up the stored updates of the staying clients; no client does any work.

θ'^0 = θ^0,  θ'^{t+1} = θ'^t + Σ_{k∉W} p̃_k U_k^t,  with U_k^t = θ_k^t − θ^t as stored, W the clients to forget.
FedAccum: p̃_k = n_k / Σ_{j∉W} n_j (baseline of arXiv:2211.11656). Subtraction: p̃_k = p_k, the weights of the whole
cohort, so θ'^T = θ^T − Σ_t Σ_{k∈W} p_k U_k^t (arXiv:2201.09441; its distillation on public data is left out). The sum
is the server's own aggregation of the updates, applied at θ'^t instead of θ^t.
Buffers are the average of those that clients sent. A client that keeps some of its samples is in W as well, because its
stored updates contain the others, and no client is asked for anything new.
"""

from collections.abc import Iterator

from fedsim.errors import FedsimError
from fedsim.flower.records import Tensors
from fedsim.flower.wire import NUM_EXAMPLES, WEIGHT
from fedsim.runs.history import SentModel
from unlearning.api.federation import Federation, Round
from unlearning.api.needs import Needs
from unlearning.api.registry import UnlearningConfig, unlearning


class FedAccumConfig(UnlearningConfig):
    """Options of FedAccum."""

    renormalize: bool = True
    """Divide the forgotten clients' weights among the others; if false, it is history subtraction."""


@unlearning("fedaccum", FedAccumConfig, Needs(history=True, updates=True), {"clients", "samples", "class"})
def unlearn(federation: Federation, config: FedAccumConfig) -> Tensors:
    """Return the sum of the stored updates, as global tensors.

    Raises
    ------
    FedsimError
        If the updates of some rounds were not kept, or every client has samples to forget.
    """
    rounds = federation.rounds
    if not config.renormalize and not federation.sends_models:
        raise FedsimError(
            "--method fedaccum: fedaccum.renormalize=false needs clients that send models, and these send differences"
        )
    if not any(kept.untouched for kept in rounds):
        raise FedsimError("--method fedaccum: every client has samples to forget, so every stored update contains some")
    if len(rounds) < federation.config.rounds:
        raise FedsimError("--method fedaccum: adds up every round, and not all were kept; use federaser")
    theta = rounds[0].model()  # θ^0
    for kept in rounds:
        if kept.untouched:
            theta = federation.aggregate(theta, kept.number, _moved(federation, kept, theta, config.renormalize))
    return theta


def _moved(federation: Federation, kept: Round, theta: Tensors, renormalize: bool) -> Iterator[tuple[int, SentModel]]:
    """Yield each client's tensors for a start at θ' and the change U_k^t.

    Without renormalising, forgotten ones change by 0.
    """
    before = kept.model()
    for client, share in kept.clients.items():
        if client in kept.untouched:
            sent = kept.sent(client)
            yield client, federation.moved(sent, theta, federation.update(sent, before))
        elif not renormalize:
            yield client, SentModel(theta, {WEIGHT: share.weight or 0.0, NUM_EXAMPLES: share.weight or 0.0})
