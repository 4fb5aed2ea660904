import dataclasses

import numpy as np
import torch

from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.roles import Roles, assign_roles
from unlearning.pipeline.source import Source


def test_roles_are_the_rows_of_the_request(source: Source, roles: Roles) -> None:
    dataset = source.data.dataset
    held = source.data.partition[2]
    assert np.array_equal(np.sort(held), held)
    assert np.array_equal(roles.forget.x.numpy(), dataset.x_train[held])
    assert len(roles.forget) + len(roles.retain) == len(source.data.partition.indices)
    kept = {image.numpy().tobytes() for image in roles.test.x}
    chosen_on = {image.numpy().tobytes() for image in roles.selection.x}
    assert not kept & chosen_on  # no reported figure has seen what models are chosen on
    assert kept | chosen_on == {image.tobytes() for image in dataset.x_test}
    assert torch.bincount(roles.selection.y).tolist() == [12] * 10  # a quarter of 48


def test_unseen_samples_are_of_the_forgotten_classes(source: Source) -> None:
    request = parse_forget("class=3", source.data, seed=0)
    unseen = assign_roles(source.data, request, 0, source.device).unseen
    assert unseen.y is not None
    assert unseen.y.tolist() == [3] * 36  # all that the test set has, less those held out


def test_unseen_samples_have_the_mix_of_a_client(roles: Roles) -> None:
    forget, unseen, test = (
        torch.bincount(view.y, minlength=10) for view in (roles.forget, roles.unseen, roles.test) if view.y is not None
    )
    assert torch.equal(unseen, torch.minimum(forget, test))


def test_people_never_seen_are_taken_whole_where_the_data_set_has_some(source: Source) -> None:
    dataset = source.data.dataset
    dataset = dataclasses.replace(dataset, x_unseen=dataset.x_test[:7], y_unseen=dataset.y_test[:7])
    data = dataclasses.replace(source.data, dataset=dataset)
    assert data.content_hash != source.data.content_hash
    request = parse_forget("client=2", data, seed=0)
    roles, usual = (assign_roles(some, request, 0, source.device) for some in (data, source.data))
    assert np.array_equal(roles.unseen.x.numpy(), dataset.x_unseen)
    assert torch.equal(roles.test.x, usual.test.x)


def test_spare_samples_are_of_the_forgotten_classes_and_none_that_attacks_look_at(roles: Roles) -> None:
    assert roles.spare is not None
    forget, unseen, spare, test = (
        torch.bincount(view.y, minlength=10)
        for view in (roles.forget, roles.unseen, roles.spare, roles.test)
        if view.y is not None
    )
    assert torch.equal(spare, torch.where(forget > 0, 12, 0))
    assert (unseen <= test).all()
    images = {image.numpy().tobytes() for image in roles.unseen.x}
    assert not images & {image.numpy().tobytes() for image in roles.spare.x}
