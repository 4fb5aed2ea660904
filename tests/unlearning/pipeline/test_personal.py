"""Personal models in the comparison: of clients that stay, as a run, an oracle and a replay leave them."""

import shutil
from pathlib import Path

import numpy as np
import pytest

import fedsim
from fedsim.runs.personalize import personalize
from fedsim.training.first_model import build_run_model
from tests.tiny_runs import TINY
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.measure import accuracy_on
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


def test_they_are_measured_where_the_strategy_makes_them(tmp_path: Path, no_pictures: None) -> None:
    config = {**TINY, "strategy": "ditto", "history": {"keep": "norms"}}
    run = fedsim.run(config, overrides={"out": str(tmp_path)}).folder
    methods = ["finetune", "retrain_checkpoint"]
    rows = {row.name: row for row in unlearn(run, methods, "client=2", compare="retrain", seeds=1).comparison.rows}
    source = open_source(run)
    forget = roles_of(source, parse_forget("client=2", source.data, 0)).forget
    staying = [client for client in range(source.config.clients) if client != 2]
    known, own = [], []
    for one in personalize(run, ",".join(map(str, staying))):
        model = build_run_model(source.config, source.data.dataset)
        model.load_state_dict(one.model)
        known.append(accuracy_on(model.eval(), forget))
        own.append(one.metrics.get("accuracy", np.nan))
    assert rows["original"].mean("personal_forget") == pytest.approx(np.mean(known))
    assert rows["original"].mean("personal_own") == pytest.approx(np.nanmean(own))
    personal = {name: rows[name].mean("personal_forget") for name in ("original", "oracle", *methods)}
    assert personal["finetune"] == personal["original"]  # nobody has reached them
    assert personal["retrain_checkpoint"] == personal["oracle"] != personal["original"]


def test_elsewhere_there_are_none(tiny_run: Path, tmp_path: Path, no_pictures: None) -> None:
    run = shutil.copytree(tiny_run, tmp_path / "tiny")
    assert not [name for row in unlearn(run, ["finetune"], "client=2").comparison.rows for name in row.metrics
                if name.startswith("personal")]  # fmt: skip
