"""Whether a class is a many-, medium- or few-shot one, by training samples or by what clients are tested on."""

from pathlib import Path

import numpy as np

from fedsim.config.resolve import find_config, resolve
from fedsim.data.federation import federate
from fedsim.data.longtail import shot_groups


def test_groups_of_cifar100_lt_are_the_authors_by_what_clients_are_tested_on(tmp_path: Path) -> None:
    """The paper's preset at alpha 1, on the labels of CIFAR-100 alone: 27, 25 and 48 classes (arXiv:2401.08977)."""
    labels = {part: np.repeat(np.arange(100, dtype=np.uint8), count) for part, count in (("train", 500), ("test", 100))}
    images = {f"x_{part}": np.zeros((len(y), 1, 1), np.uint8) for part, y in labels.items()}
    np.savez(tmp_path / "labels.npz", **images, **{f"y_{part}": y for part, y in labels.items()})
    preset = find_config("fedloge_cifar100lt_paper")
    own = preset["data"] | {"name": f"npz:{tmp_path / 'labels.npz'}", "augment": "none"}
    config = resolve({**preset, "data": own, "data.partition.alpha": 1.0})
    data = federate(config.data, config.clients, config.seed)
    groups = {by: shot_groups(data.shot_counts(by)) for by in ("train", "client_test")}
    assert {by: [len(classes) for classes in group.values()] for by, group in groups.items()} == {
        "train": [30, 31, 39], "client_test": [27, 25, 48],
    }  # fmt: skip
    assert config.data.shots == "client_test"
