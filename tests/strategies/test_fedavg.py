"""FedAvg against a plain loop written without fedsim's trainer, worker, server or engine."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import fedsim
from fedsim.config.resolve import resolve
from fedsim.data import federate
from fedsim.models.build import build_model
from fedsim.training.batches import plan_batches


def plain_fedavg(config, rounds):
    """Return (model, test accuracy) after `rounds` of FedAvg over all clients, step by step."""
    data = federate(config.data, config.clients, config.seed)
    dataset = data.dataset
    mean, std = (np.reshape(v, (1, -1, 1, 1)) for v in (dataset.mean, dataset.std))
    x, x_test = (torch.from_numpy((a.astype(np.float64) / 255 - mean) / std) for a in (dataset.x_train, dataset.x_test))
    y, y_test = torch.from_numpy(dataset.y_train), torch.from_numpy(dataset.y_test)
    model = build_model(config.model, dataset.input_shape, dataset.num_classes, config.seed).double()
    for server_round in range(1, rounds + 1):
        start = {name: value.clone() for name, value in model.state_dict().items()}
        total = {name: torch.zeros_like(value) for name, value in start.items()}
        samples = 0
        for client, rows in enumerate(data.partition):
            if not len(rows):
                continue
            model.load_state_dict(start)
            optimizer = torch.optim.SGD(model.parameters(), config.training.lr)
            plan = plan_batches(
                [rows], [client], (config.seed, server_round, 0),
                epochs=config.training.epochs, batch_size=config.training.batch_size, drop_single=False,
            )  # fmt: skip
            for index, count in zip(plan.index[:, 0], plan.counts[:, 0], strict=True):
                batch = torch.from_numpy(index[:count])
                optimizer.zero_grad()
                F.cross_entropy(model(x[batch]), y[batch]).backward()
                optimizer.step()
            for name, value in model.state_dict().items():
                total[name] += len(rows) * value
            samples += len(rows)
        model.load_state_dict({name: value / samples for name, value in total.items()})
    with torch.no_grad():
        return model, float((model.eval()(x_test).argmax(1) == y_test).float().mean())


needs_mnist = pytest.mark.skipif("FEDSIM_DATA" not in os.environ, reason="mnist is looked for in FEDSIM_DATA")


@pytest.mark.parametrize("vectorize", ["never", "always"])
@pytest.mark.parametrize(
    ("dataset", "clients"), [("digits", 20), pytest.param("mnist", 100, marks=[needs_mnist, pytest.mark.slow])]
)
def test_fedavg_is_the_plain_loop(dataset, clients, vectorize, tmp_path):
    config = resolve({
        "clients": clients, "rounds": 2, "eval_every": 2, "out": str(tmp_path), "name": "run",
        "data": {"name": dataset, "partition": {"name": "dirichlet", "alpha": 0.5}},
        # float64: over 60 steps float32 rounding alone grows to 1e-4
        "training": {"lr": 0.05, "batch_size": 10, "vectorize": vectorize, "precision": "float64"},
    })  # fmt: skip
    result = fedsim.run(config)
    model, accuracy = plain_fedavg(config, 2)
    for (name, ours), (_, plain) in zip(result.model.state_dict().items(), model.state_dict().items(), strict=True):
        assert torch.allclose(ours, plain, rtol=0, atol=1e-6), name
    assert result.final["global/accuracy"] == pytest.approx(accuracy, abs=1e-3)
