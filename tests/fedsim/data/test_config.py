import subprocess
import sys

import pytest
from pydantic import ValidationError

from fedsim.data import DataConfig, available_datasets, partition_names


def test_a_bare_name_and_bare_options_are_shorthand():
    assert DataConfig(partition="iid") == DataConfig(partition={"name": "iid"})
    assert DataConfig(partition={"alpha": 0.1}) == DataConfig(partition={"name": "dirichlet", "alpha": 0.1})
    assert DataConfig().partition.model_dump() == {
        "name": "dirichlet",
        "alpha": 0.5,
        "min_samples": 0,
        "balance": False,
    }


@pytest.mark.parametrize("partition", partition_names())
def test_a_config_survives_its_dump(partition):
    config = DataConfig(name="npz:some.npz", partition=partition, imbalance_factor=0.1, root="somewhere")
    assert DataConfig(**config.model_dump(mode="json")) == config


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ({"name": "cifar"}, "did you mean 'cifar10'?"),
        ({"name": "npz:"}, "no dataset"),
        ({"name": "mnist:x"}, "no dataset"),
        ({"partition": "pathologic"}, "did you mean 'pathological'?"),
        ({"partition": {"name": []}}, "no partitioner"),
        ({"partition": 3}, "partition"),
        ({"partition": {"name": "iid", "alpha": 1}}, "alpha"),
        ({"partition": {"alpha": 0}}, "alpha"),
        ({"partition": {"name": "multinomial", "seed": 2**32}}, "seed"),
        ({"imbalance_factor": 0}, "imbalance_factor"),
        ({"imbalance_factor": float("nan")}, "imbalance_factor"),
        ({"client_test_fraction": 1.0}, "client_test_fraction"),
        ({"augment": "flop"}, "augment"),
        ({"labelled_fraction": 0.0}, "labelled_fraction"),
        ({"labelled_min": 0}, "labelled_min"),
    ],
)
def test_bad_options_are_refused_by_name(options, needle):
    with pytest.raises(ValidationError, match=needle.replace("?", r"\?")):
        DataConfig(**options)


def test_every_name_is_described_in_one_line():
    for names in (available_datasets(), partition_names()):
        assert all(text and "\n" not in text for text in names.values())


def test_the_package_imports_nothing_heavy():
    heavy = {"torch", "sklearn", "torchvision", "datasets", "flwr_datasets", "ray"}
    code = f"import sys, fedsim.data; print(*({heavy} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "\n"
