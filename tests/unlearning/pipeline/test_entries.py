"""Which methods `all` stands for."""

from pathlib import Path

import pytest

from fedsim.errors import FedsimError
from unlearning.api import registry as methods
from unlearning.pipeline.runner import unlearn


def test_all_leaves_out_what_cannot_serve(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of all methods, those that forget classes only sit a client's request out, and are told."""
    names = ("finetune", "modhifi_u")
    known = methods.declared("unlearning", "unlearning")
    some = {name: known[name] for name in names}
    monkeypatch.setattr("unlearning.pipeline.entries.declared", lambda package, marker: some)
    with pytest.raises(FedsimError, match=r"no method can serve --forget client=2 \(left out: modhifi_u forgets class"):
        unlearn(run, ["all"], "client=2")
    outcome = unlearn(run, ["all"], "class=2")
    assert {row.name for row in outcome.comparison.rows} == {"original", *names, "constant", "masked"}
