"""The benchmark on faces, small: its table, its page, and that it goes on from what is there."""

import csv
import json
from pathlib import Path

import pytest

from fedsim.plugins import allow
from tests.scripts.load import script
from unlearning.api.registry import load_unlearning


def test_every_recipe_of_the_authors_has_options_that_its_method_knows() -> None:
    for name, options in script("bench_faces").AUTHORS.items():
        allow(name, "--method")
        method = load_unlearning(name)
        assert method.config.model_validate({"name": method.name, **options})


@pytest.mark.slow
def test_a_small_mufac_has_its_table_and_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bench = script("bench_mufac")
    out = tmp_path / "bench"
    for _ in range(2):  # the second time finds all there
        bench.main(procedural=10, seeds=2, rounds=2, size=16, method=["finetune"], out=out)
    assert capsys.readouterr().out.count("seed 0: an original") <= 1
    rows = json.loads((out / "table.json").read_text())["rows"]
    names = [row["model"] for row in rows]
    assert names[:3] == ["original", "oracle", "constant"]
    assert "authors_unsir, authors'" in names
    for row in rows:
        assert row["NoMUS"] == pytest.approx((row["test"] + 1 - 2 * row["FS"]) / 2)
    with (out / "table.csv").open() as file:
        assert [row["model"] for row in csv.DictReader(file)] == names
    assert (out / "table.tex").read_text().count(r"\\") == len(rows) + 1
    page = (out / "index.html").read_text()
    assert "Recall of each class" in page
    assert "Published: MUFAC" in page


@pytest.mark.slow
@pytest.mark.parametrize("attribute", ["all", "Smiling"])
def test_a_small_mucac_has_its_table(tmp_path: Path, attribute: str) -> None:
    out = tmp_path / "bench"
    script("bench_mucac").main(
        attribute=attribute, procedural=10, seeds=2, rounds=2, size=16, method=["finetune"], out=out
    )
    rows = json.loads((out / "table.json").read_text())["rows"]
    assert "scrub, authors'" in [row["model"] for row in rows]
    assert "Smiling" in (out / "index.html").read_text()
