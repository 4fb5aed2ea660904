import pytest
import torch
import torch.nn.functional as F

from fedsim.errors import FedsimError
from fedsim.federated.client import Client
from tests.strategies.small_runs import assert_cohorts_agree, batches_of, begin, cohort_of, finished, halves

EXACT = {"model.norm": "none", "training.precision": "float64"}


@pytest.mark.parametrize("momentum", [0.0, 0.6])
def test_rounds_are_the_papers_written_out(momentum):
    """Algorithm 1, option II, with 3 of 4 clients a round; K counts applied gradients, one by one."""
    lr, global_lr = 0.05, 0.7
    setting = {"cohort": 3, "rounds": 4, "training.lr": lr, "training.momentum": momentum, "training.epochs": 2}
    run = begin("scaffold", {**EXACT, **setting, "strategy.global_lr": global_lr})
    model = run.simulation.new_model(run.simulation.config)
    x = {name: value.detach().clone() for name, value in model.named_parameters()}
    c = {name: torch.zeros_like(value) for name, value in x.items()}
    controls = [dict(c) for _ in range(4)]
    for server_round in range(1, 5):
        ys, changes = [], []
        for k in cohort_of(run, server_round):
            model.load_state_dict(x)
            velocity = {name: torch.zeros_like(value) for name, value in x.items()}
            applied, echo = 0.0, 0.0
            for inputs, labels in batches_of(run, k, server_round):
                gradients = torch.autograd.grad(F.cross_entropy(model(inputs), labels), list(model.parameters()))
                echo = momentum * echo + 1
                applied += echo
                with torch.no_grad():
                    for (name, y), g in zip(model.named_parameters(), gradients, strict=True):
                        velocity[name] = momentum * velocity[name] + (g - controls[k][name] + c[name])
                        y -= lr * velocity[name]
            y = {name: value.detach().clone() for name, value in model.named_parameters()}
            new = {name: controls[k][name] - c[name] + (x[name] - y[name]) / (applied * lr) for name in x}
            changes.append({name: new[name] - controls[k][name] for name in x})
            ys.append(y)
            controls[k] = new
        x = {name: value + global_lr / 3 * sum(y[name] - value for y in ys) for name, value in x.items()}
        c = {name: value + sum(change[name] for change in changes) / 4 for name, value in c.items()}
    run.advance(4)
    for name, value in x.items():
        torch.testing.assert_close(run.tensors[name], value, rtol=1e-9, atol=1e-11)
        torch.testing.assert_close(run.state.server[0][f"control.{name}"], c[name], rtol=1e-9, atol=1e-11)
        for k in range(4):
            torch.testing.assert_close(run.personal(k)[f"control.{name}"], controls[k][name], rtol=1e-9, atol=1e-11)


def test_c_stays_the_mean_of_all_controls():
    run = finished("scaffold", {**EXACT, "cohort": 2, "rounds": 5})
    for name, c in run.state.server[0].items():
        kept = [run.personal(k).get(name, torch.zeros_like(c)) for k in range(4)]
        torch.testing.assert_close(c, torch.stack(kept).mean(0), rtol=1e-9, atol=1e-12)


class Unweighted(Client):
    def finish(self, update, extras):
        return update._replace(weights=torch.ones_like(update.weights))


def test_its_first_round_is_unweighted_fedavg_and_so_is_its_loss():
    with halves("fedavg", client=Unweighted):
        expected = begin("fedavg", EXACT)
        losses = expected.advance(1)["train/loss"]
    run = begin("scaffold", EXACT)
    assert run.advance(1)["train/loss"] == pytest.approx(losses, rel=1e-12)
    for name, value in expected.tensors.items():
        torch.testing.assert_close(run.tensors[name], value, rtol=1e-12, atol=1e-14)


def test_a_client_without_a_step_keeps_its_control():
    # BatchNorm drops batches of one: a client of one sample takes no step.
    run = begin("scaffold", {"clients": 40, "data.max_per_class": 8, "data.partition.alpha": 0.2, "rounds": 2})
    lonely = [k for k, size in enumerate(run.simulation.data.partition.sizes) if size == 1]
    assert lonely
    run.advance(2)
    assert not any(value.any() for k in lonely for value in run.personal(k).values())
    assert all(value.isfinite().all() for value in run.state.server[0].values())


def test_together_and_one_by_one_agree():
    assert_cohorts_agree("scaffold")


def test_only_sgd_is_understood():
    with pytest.raises(FedsimError, match=r"training\.optimizer: scaffold reads gradients off the steps of SGD"):
        begin("scaffold", {"training.optimizer": "adam"})
