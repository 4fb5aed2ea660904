"""Inputs of methods besides samples: from subset models and oracles of the run."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from fedsim.config.run import HistoryConfig
from fedsim.errors import FedsimError
from tests.tiny_runs import Cli
from unlearning.api.registry import load_unlearning
from unlearning.pipeline.apply import options_of
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.ensemble import Member, train_members
from unlearning.pipeline.entries import entries_of
from unlearning.pipeline.forget import Request, parse_forget
from unlearning.pipeline.guides import ORACLES_APART, Guides, shifts, subset_members, units_of
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.source import Source, open_source


@pytest.fixture(scope="module")
def source(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Source:
    return open_source(shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "run"))


def asked(source: Source, spec: str) -> Request:
    return parse_forget(spec, source.data, 0)


@pytest.mark.parametrize("spec", ["clients=2,4", "class=3", "random=0.02", "random=0.3"])
def test_units_are_a_partition_and_some_of_them_the_request(source: Source, spec: str) -> None:
    request = asked(source, spec)
    for unit in ("auto", "group", "sample"):
        units = units_of(request, source.data, unit, 0)
        everything = np.concatenate(units.rows)
        assert np.array_equal(np.sort(everything), np.sort(source.data.partition.indices))
        forgotten = np.concatenate([units.rows[unit] for unit in units.forgotten])
        assert np.array_equal(np.sort(forgotten), request.rows)
        assert units.serves_all == (unit == "sample" or (unit == "auto" and request.kind == "clients"))
    assert 20 <= len(units_of(request, source.data, "group", 0).rows) <= 51
    mask = np.ones(len(units.rows), bool)
    mask[units.forgotten] = False
    assert np.array_equal(units.left_out(mask), request.rows)


def test_part_of_a_client_is_no_unit(source: Source) -> None:
    with pytest.raises(FedsimError, match=r"unit: random=0\.1 does not consist of whole clients; use unit=group"):
        units_of(asked(source, "random=0.1"), source.data, "client", 0)


def test_subset_models_of_clients_serve_every_request(source: Source) -> None:
    units = [units_of(asked(source, f"client={client}"), source.data, "auto", 0) for client in (1, 2)]
    first, second = (subset_members(source, each, 0.9, 5)[1] for each in units)
    for ours, theirs in zip(first, second, strict=True):
        assert ours.seed == theirs.seed
        assert np.array_equal(ours.left_out, theirs.left_out)
    masks, members = subset_members(source, units[0], 0.5, 8)
    for mask, member in zip(masks, members, strict=True):
        held = np.setdiff1d(source.data.partition.indices, member.left_out)
        assert {client for client in range(6) if np.isin(source.data.partition[client], held).any()} == set(
            np.flatnonzero(mask).tolist()
        )


def test_shifts_are_aligned_with_the_samples(source: Source) -> None:
    """The shift of each role's samples is what the models without the client lack on them, sample by sample."""
    request, method = asked(source, "client=2"), load_unlearning("datamodel_matching")
    options = options_of(method, {"models": 8, "share": 0.5, "estimator": "means"}, request.kind)
    units = units_of(request, source.data, "auto", 0)
    told = shifts(source, request, units, options, lambda line: None)
    masks, members = subset_members(source, units, 0.5, 8)
    ensemble = train_members(source, members, frozenset({"logits"}))
    assert ensemble.trained == 0  # `shifts` has trained them
    for role, rows in (("forget", request.rows), ("retain", request.retain)):
        y = np.stack([kept.logits("train", rows) for kept in ensemble])
        expected = y[masks[:, 2]].mean(0) - y[~masks[:, 2]].mean(0)
        np.testing.assert_allclose(getattr(told.of, role), expected, rtol=0, atol=1e-4)
    assert told.costs["models_trained"] == 8


def test_an_oracle_to_match_is_not_one_that_judges(source: Source) -> None:
    request, method = asked(source, "client=2"), load_unlearning("oracle_matching")
    guides = Guides(source, request, roles_of(source, request), lambda line: None)
    roles = guides.roles_for(method, options_of(method, {}), 0)
    (oracle,) = train_members(source, [Member(ORACLES_APART, request.rows)], frozenset({"logits"}))
    assert roles.forget.oracle is not None
    assert torch.equal(roles.forget.oracle, torch.from_numpy(oracle.logits("train", request.rows)).float())
    assert guides.roles.forget.oracle is None  # no other method gets it


def test_all_methods_are_those_that_train_no_further_models(source: Source) -> None:
    entries, notes = entries_of(["all"], asked(source, "client=2"), HistoryConfig(), {})
    assert "scrub" in entries
    for name in ("datamodel_matching", "oracle_matching"):
        assert name not in entries
        assert f"left out: {name} trains many models; request it by name" in notes


@pytest.mark.slow
def test_from_the_command_line(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "run")
    told = cli(
        "unlearn", run, "--method=datamodel_matching", "--forget=client=2", "--name=matched",
        "--set=models=8", "--set=epochs=2", "--set=share=0.6",
    )  # fmt: skip
    assert told.code == 0, told.err
    assert "datamodel: 8 models" in told.out
    rows = {row.name: row for row in read_comparison(run / "unlearned" / "matched").rows}
    assert rows["datamodel_matching"].metrics["models_trained"].mean == 8
    assert rows["datamodel_matching (direct)"].kind == "baseline"  # a prediction, of no model
    assert (run / "unlearned" / "matched" / "report.html").is_file()
