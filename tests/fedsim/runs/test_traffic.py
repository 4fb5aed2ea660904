"""Bytes are those that real clients would send, whoever adds their updates up and wherever they run."""

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

import fedsim
from tests.tiny_runs import TINY


def lines(out: Path, **overrides: Any) -> tuple[list[tuple[int, int]], int]:
    result = fedsim.run(TINY, overrides={"out": str(out), "cohort": 4, **overrides})
    read = map(json.loads, (result.folder / "metrics.jsonl").read_text().splitlines())
    model = sum(value.nbytes for value in load_file(result.folder / "model.safetensors").values())
    return [(line["bytes_down"], line["bytes_up"]) for line in read], model


@pytest.mark.usefixtures("no_pictures")
def test_a_model_goes_to_each_client_of_a_cohort_and_back(tmp_path: Path) -> None:
    found, model = lines(tmp_path / "summed")
    assert found == [(4 * model, 4 * model)] * 3
    # What is kept of each client beside the sum that a chunk sends is no more traffic; other chunks neither.
    assert lines(tmp_path / "kept", **{"history.keep": "updates", "training.chunk": 1}) == (found, model)
    # Every client for itself.
    assert lines(tmp_path / "each", **{"strategy.name": "fedmedian"}) == (found, model)


@pytest.mark.usefixtures("no_pictures")
def test_clients_that_fail_send_nothing_and_what_is_not_sent_does_not_count(tmp_path: Path) -> None:
    found, model = lines(tmp_path / "lost", **{"faults.dropout": 0.5, "seed": 1})
    assert {down for down, _ in found} == {4 * model}
    assert all(up % model == 0 and up < 4 * model for _, up in found)
    personal, _ = lines(tmp_path / "personal", **{"strategy.name": "fedrep"})
    assert all(down < 4 * model and up < 4 * model for down, up in personal)
