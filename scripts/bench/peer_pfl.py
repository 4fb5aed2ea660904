"""The row of pfl-research (apple/pfl-research, on PyPI as `pfl`): its own loop, backend, model and optimisers."""

from __future__ import annotations

import os
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from bench.meter import Meter
from bench.rows import Outcome
from bench.workloads import Federation, Workload, flat


class _Loss(nn.Module):
    """A model with a loss, as pfl requires it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model
        self.steps = 0

    def loss(self, x: Tensor, y: Tensor) -> Tensor:
        self.steps += 1
        return F.cross_entropy(self.model(x), y)

    def metrics(self, x: Tensor, y: Tensor) -> dict[str, Any]:
        from pfl.metrics import Weighted

        return {"samples": Weighted(len(y), len(y))}


def pfl(workload: Workload, meter: Meter) -> Outcome:
    """Run `FederatedAveraging` on a `SimulatedBackend`; users are created as tensors when they are sampled."""
    os.environ["PFL_PYTORCH_DEVICE"] = str(meter.device)
    import torch
    from pfl.aggregate.simulate import SimulatedBackend
    from pfl.algorithm import FederatedAveraging, NNAlgorithmParams
    from pfl.callback.base import TrainingProcessCallback
    from pfl.data import FederatedDataset
    from pfl.data.dataset import Dataset
    from pfl.hyperparam import NNEvalHyperParams, NNTrainHyperParams
    from pfl.metrics import Metrics
    from pfl.model.pytorch import PyTorchModel

    federation = Federation(workload, meter.device)
    users = ((r, client) for r in range(1, meter.total + 1) for client in federation.cohort(r))

    def make_dataset(user: tuple[int, int]) -> Any:
        rows = federation.order(*user).flatten()
        return Dataset((federation.x[rows], federation.y[rows]), user_id=str(user[1]))

    class Laps(TrainingProcessCallback):  # type: ignore[misc]  # pfl has no types
        def after_central_iteration(self, *args: Any, **kwargs: Any) -> tuple[bool, Any]:
            meter.lap()
            return False, Metrics()

    module = _Loss(federation.model())
    start = flat(list(module.parameters()))
    data = FederatedDataset(make_dataset, lambda: next(users))
    FederatedAveraging().run(
        algorithm_params=NNAlgorithmParams(
            central_num_iterations=meter.total,
            evaluation_frequency=10**9,  # the first iteration is evaluated in any case; it is not timed
            train_cohort_size=workload.cohort,
            val_cohort_size=None,
        ),
        backend=SimulatedBackend(training_data=data, val_data=data),
        model=PyTorchModel(module, torch.optim.SGD, torch.optim.SGD(module.parameters(), lr=1.0)),
        model_train_params=NNTrainHyperParams(
            # Its data sets do not shuffle: all epochs are concatenated into one pass.
            local_num_epochs=1,
            local_learning_rate=workload.lr,
            local_batch_size=workload.batch,
        ),
        model_eval_params=NNEvalHyperParams(local_batch_size=None),
        callbacks=[Laps()],
    )
    return Outcome(start, flat(list(module.parameters())), module.steps)
