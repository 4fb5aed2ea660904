"""The page on metrics names every metric, as it is declared."""

from pathlib import Path

from unlearning.evaluation.catalogue import METRICS

PAGE = (Path(__file__).parents[2] / "docs" / "forgetting.md").read_text(encoding="utf-8")


def test_every_metric_is_explained_by_its_own_words() -> None:
    missing = [m.name for m in METRICS.values() if f"`{m.name}`: {m.title}." not in PAGE]
    assert missing == []
    assert PAGE.count("\n### ") == len(METRICS)
