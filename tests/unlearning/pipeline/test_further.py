"""`--models N`: distributions of models without N run folders."""

from pathlib import Path

import numpy as np
import pytest

from fedsim.errors import FedsimError
from tests.light import as_for_users
from tests.tiny_runs import Cli
from unlearning.pipeline.comparison import read_comparison
from unlearning.pipeline.ensemble import Member, train_members
from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.further import further_models
from unlearning.pipeline.measure import brief_of, measure
from unlearning.pipeline.oracle import FOLDERS, MEMBERS, retrained
from unlearning.pipeline.purge import plan
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.runner import unlearn
from unlearning.pipeline.source import open_source


def test_a_model_is_told_alike_by_its_margins_and_by_its_run(copied: Path) -> None:
    source = open_source(copied)
    request = parse_forget("client=2", source.data, 0)
    roles = roles_of(source, request)
    found = further_models(source, request, [1], {"same": lambda model, seed: brief_of(model, roles, 0)}, print)
    left = source.data.without(request.rows)
    for seed, original, same, oracle in zip((1,), found["original"], found["same"], found["oracle"], strict=True):
        runs = [
            (original, retrained(source, source.data, seed, FOLDERS[1])),
            (oracle, retrained(source, left, seed, FOLDERS[0])),
        ]
        for model, run in runs:
            whole = measure(run.model, roles, 0)
            for name, value in model.values.items():
                assert value == pytest.approx(whole.values[name], abs=1e-6), name
            for role in ("forget", "retain", "test", "unseen"):
                np.testing.assert_allclose(model.margins(role), whole.margins(role), rtol=0, atol=1e-4)
        np.testing.assert_allclose(same.margins("forget"), original.margins("forget"), rtol=0, atol=1e-4)
        assert brief_of(runs[0][1].model, roles, 0) is not None


@pytest.mark.slow
def test_many_models_make_klom_u_lira_and_intervals(copied: Path, cli: Cli) -> None:
    told = cli("unlearn", copied, "--method=neggrad", "--forget=client=2", "--seeds=2", "--models=4", "--name=many")
    assert told.code == 0, told.err
    rows = {row.name: row for row in read_comparison(copied / "unlearned" / "many").rows}
    for name in ("original", "neggrad", "finetune"):
        metrics = rows[name].metrics
        assert metrics["klom_forget"].seeds == metrics["u_lira"].seeds == metrics["accuracy_forget"].seeds == 4
        assert metrics["loss_forget"].seeds == 2
    assert rows["neggrad"].verdict is not None
    assert rows["oracle"].metrics["mia_auc"].seeds == 4
    members = sorted((copied / "unlearned" / MEMBERS).iterdir())
    assert len(members) == 4  # two originals and two oracles: the first two seeds are runs
    lines: list[str] = []
    source = open_source(copied)
    request = parse_forget("client=3", source.data, 0)
    further_models(source, request, [2, 3], {}, lines.append)
    assert lines[0] == "oracles without client=3: 2 to train, 0 are there"  # originals serve every request
    assert len(list((copied / "unlearned" / MEMBERS).iterdir())) == 6


def test_a_purge_destroys_them(copied: Path) -> None:
    source = open_source(copied)
    left = source.data.without(source.data.partition[2])
    assert MEMBERS not in {Path(gone.path).name for gone in plan(source, left, None)}
    train_members(source, [Member(0)], frozenset())
    assert f"unlearned/{MEMBERS}" in {gone.path for gone in plan(source, left, None)}


def test_bad_numbers_of_models(copied: Path) -> None:
    told = "--models: must be at least the 3 seeds of the full comparison, got 2"
    with as_for_users(), pytest.raises(FedsimError, match=told):
        unlearn(copied, ["neggrad"], "client=2", models=2)
    with pytest.raises(FedsimError, match="leave out --then"):
        unlearn(copied, ["neggrad"], "client=2", then=["client=3"], models=9)
