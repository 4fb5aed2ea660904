"""Phases on several streams: what is annotated, what reaches a batch, and from where strong views are drawn."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from fedsim.config.resolve import resolve
from fedsim.data.config import StrongView
from fedsim.federated.client import Client
from fedsim.federated.types import Annotation, Extras, Phase, State
from fedsim.models.build import build_model
from fedsim.training.data import ClientJob, TrainingData
from fedsim.training.streams import Feeder
from fedsim.training.trainer import Trainer

SHAPE, CLASSES = (6,), 3
LABELLED, UNLABELLED = [5, 2, 9], [7, 0, 12]


def data(augment="none"):
    g = torch.Generator().manual_seed(0)
    n = sum(LABELLED + UNLABELLED)
    x = torch.randn(n, *SHAPE, generator=g, dtype=torch.float64)
    y = torch.cat([torch.randint(0, CLASSES, (sum(LABELLED),), generator=g), torch.full((sum(UNLABELLED),), -1)])
    return TrainingData(x, y, torch.zeros(6), torch.ones(6), augment, 0, torch.float64)


def jobs(clients=(0, 1, 2)):
    a, b = np.cumsum([0, *LABELLED]), sum(LABELLED) + np.cumsum([0, *UNLABELLED])
    return [ClientJob(c, np.arange(a[c], a[c + 1]), State({}, {}), np.arange(b[c], b[c + 1])) for c in clients]


def setup(client_type, **training):
    config = resolve({"model": {"name": "mlp", "hidden": [4]}, "training": {"batch_size": 4, "lr": 0.1, **training}})
    model = build_model(config.model, SHAPE, CLASSES, 0).double()
    trainer = Trainer(client_type(config, model), data(), config.training, 0, False)
    return trainer, State({name: value.detach() for name, value in model.named_parameters()}, {})


class Noting(Client):
    """Keeps the samples whose first feature is positive, and checks what comes with each."""

    leave_out = True

    def phases(self):
        noted = Phase(
            self.unlabelled_loss, steps=3, streams=("unlabelled",), strong=StrongView(), annotate=self.annotate,
            leave_out=self.leave_out,
        )  # fmt: skip
        return [Phase(self.loss, epochs=2), noted]

    def annotate(self, params, buffers, extras, x):
        assert not torch.is_grad_enabled()
        assert params["classifier.weight"].dim() == 2  # of one client
        moved = (params["classifier.weight"] - extras.start["classifier.weight"]).abs().max()
        return Annotation(x[:, 0] > 0, {"x": x, "moved": moved.expand(len(x))})

    def unlabelled_loss(self, params, buffers, extras, batch):
        logits = self.model.logits(params, buffers, batch.strong, train=True)
        gap = (batch.notes["x"] - batch.x).abs().amax(1)
        kept = batch.notes.get("keep", torch.ones_like(gap)).to(gap.dtype)
        known = (batch.y >= 0).to(gap.dtype)
        shares = {name: batch.mean(value) for name, value in [("gap", gap), ("known", known), ("kept", kept)]}
        positive = batch.mean((batch.x[:, 0] > 0).to(gap.dtype))
        return batch.mean(logits.square().sum(1)), {
            **shares, "positive": positive, "moved": batch.mean(batch.notes["moved"])
        }  # fmt: skip


class WeighingAll(Noting):
    leave_out = False


@pytest.mark.parametrize("client_type", [Noting, WeighingAll])
@pytest.mark.parametrize("together", [True, False])
def test_notes_travel_with_their_samples(client_type, together):
    trainer, start = setup(client_type)
    groups = [jobs()] if together else [[job] for job in jobs()]
    for trained, group in [(trainer.train(start, {}, group, 1), group) for group in groups]:
        for row, lane in enumerate(trained.lanes):
            client = group[lane].client
            positive = int((data().x[torch.from_numpy(group[lane].unlabelled), 0] > 0).sum())
            assert trained.samples[row].tolist() == [LABELLED[client], positive]
            there = positive if client_type.leave_out else UNLABELLED[client]
            assert trained.drawn[row].tolist() == [2 * LABELLED[client], 3 * min(4, there)]
            if not there:
                assert "gap" not in trained.metrics or trained.metrics["gap"][row].isnan()
                continue
            measured = {name: float(value[row]) for name, value in trained.metrics.items()}
            assert measured["gap"] == measured["known"] == 0.0
            assert measured["moved"] > 0  # annotated after the first phase
            assert measured["positive"] == pytest.approx(measured["kept"])
            assert (measured["positive"] == 1.0) == client_type.leave_out


def test_both_ways_of_training_agree_and_the_last_phase_of_a_client_gives_its_loss():
    trainer, start = setup(Noting)
    whole = trainer.train(start, {}, jobs(), 1)
    for row, lane in enumerate(whole.lanes):
        alone = trainer.train(start, {}, [jobs()[lane]], 1)
        for name, value in alone.state.params.items():
            assert torch.allclose(whole.state.params[name][row], value[0], rtol=0, atol=1e-12)
        assert float(whole.metrics["loss"][row]) == pytest.approx(float(alone.metrics["loss"][0]))


def test_strong_views_depend_on_round_client_phase_and_step_alone():
    phase = Phase(lambda *_: None, steps=3, strong=StrongView(feature_dropout=0.0))
    trainer, start = setup(Client)

    def views(clients, server_round=1, number=0):
        feeder = Feeder(data(), trainer.config, 0, False, jobs(clients))
        feed = feeder.feed(phase, server_round, number, start, Extras({}, {}))
        return feed, torch.stack(list(feed.strong_views(data(), range(3))))

    feed, among = views([0, 2])
    _, alone = views([2])
    assert torch.equal(among[:, 1], alone[:, 0])
    x = data().x[torch.from_numpy(feed.plan.index)]
    noise = (among - x)[:, 1, :4]
    assert not torch.allclose(noise[0], noise[1])
    for other in (views([2], server_round=2)[1], views([2], number=1)[1]):
        assert not torch.equal(other, alone)


def test_weak_augmentation_is_of_labelled_samples_only():
    trainer, start = setup(Client)
    augmented = replace(data(), augment="crop_flip", pad=2)
    feeder = Feeder(augmented, trainer.config, 0, False, jobs([0]))
    phase = Phase(lambda *_: None, steps=3, streams=("labelled", "unlabelled"))
    plan = feeder.feed(phase, 1, 0, start, Extras({}, {})).plan
    assert (plan.draws[:, :, :4] != plan.draws[0, 0, 0]).any()
    assert (plan.draws[:, :, 4:] == (2, 2, 0)).all()
    assert feeder.feed(replace(phase, streams=("unlabelled",)), 1, 0, start, Extras({}, {})).plan.draws is None


def test_steps_of_a_phase_of_the_configuration_and_passes():
    class Four(Client):
        def phases(self):
            return [Phase(self.loss), Phase(self.loss, steps=2), Phase(self.loss, epochs=1), Phase(self.loss, steps=0)]

    trainer, start = setup(Four, steps=5)
    trained = trainer.train(start, {}, jobs([2]), 1)
    assert trained.drawn.tolist() == [[20.0, 8.0, 9.0, 0.0]]
    assert trained.steps.tolist() == [5 + 2 + 3]
