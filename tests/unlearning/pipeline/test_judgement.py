"""Further models enter the verdict where margins tell."""

from pathlib import Path

from unlearning.pipeline.forget import parse_forget
from unlearning.pipeline.judgement import Contestant, verdict_on
from unlearning.pipeline.measure import brief_of, measure
from unlearning.pipeline.roles import roles_of
from unlearning.pipeline.source import open_source


def test_further_models_enter_the_verdict_where_margins_tell(copied: Path) -> None:
    source = open_source(copied)
    request = parse_forget("client=2", source.data, 0)
    roles = roles_of(source, request)
    whole = measure(source.model, roles, 0)
    more = brief_of(source.model, roles, 0)
    assert more is not None
    sides = {
        name: Contestant(kind, runs=[whole] * 2) for name, kind in (("original", "original"), ("oracle", "oracle"))
    }
    alike = verdict_on("original", sides, "clients")
    assert alike is not None
    assert alike.label == "cannot be told here"
    worse = brief_of(source.model.apply(lambda part: None), roles, 0)
    assert worse is not None
    worse.values.update(accuracy_retain=0.2)
    sides["original"].further = [worse] * 20
    sides["oracle"].further = [more] * 20
    told = verdict_on("original", sides, "clients")
    assert told is not None
    assert told.label == "damaged"
