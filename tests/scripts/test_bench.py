"""The benchmark scripts run, and their rows do the same work; how fast they are is not tested here."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

_SCRIPTS = Path(__file__).parents[2] / "scripts"


def run(tmp_path: Path, script: str, *options: str) -> dict[str, Any]:
    out = tmp_path / "out.json"
    command = [sys.executable, str(_SCRIPTS / script), *options, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    report: dict[str, Any] = json.loads(out.read_text())
    return report


@pytest.mark.slow
def test_rows_do_the_same_work_and_are_all_measured(tmp_path: Path) -> None:
    rows = ["bare", "sequential", "vectorized"]
    report = run(tmp_path, "bench_engines.py", "--workloads", "smoke", "--rows", ",".join(rows), "--repeats", "1")
    assert report["definitions"]["smoke"]["cohort"] == 6
    results = report["workloads"]["smoke"]
    assert list(results) == rows
    for row in rows:
        result = results[row]
        assert [len(seconds) for seconds in result["seconds"]] == [3]
        # 6 clients of 15 samples: a batch of 10 and one of 5, in 1 + 3 + 2 rounds.
        assert result["steps"] == 6 * 2 * 6
        assert result["distance"] < 1e-4
        assert 0 < result["min_s"] <= result["median_s"]
        assert min(result[key] for key in ("startup_s", "cpu_s", "memory_mb", "peak_rss_mb", "clients_per_s")) > 0
    assert results["bare"]["ratio"] == 1
    assert 0 < results["sequential"]["overhead"] < 1


def test_a_row_that_cannot_run_says_why_and_costs_no_other(tmp_path: Path) -> None:
    report = run(
        tmp_path, "bench_gpu.py", "--workloads", "smoke", "--rows", "bare", "--cifar-modes", "", "--device", "cuda:99"
    )
    assert "error" in report["workloads"]["smoke"]["bare"]


def test_an_unknown_row_is_named() -> None:
    command = [sys.executable, str(_SCRIPTS / "bench_engines.py"), "--rows", "bear"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("--rows: no 'bear'; there are bare, ")


@pytest.mark.slow
def test_scale_memory_and_gpu_scripts_run(tmp_path: Path) -> None:
    scale = run(tmp_path, "bench_scale.py", "--sizes", "100,200", "--rounds", "3", "--repeats", "1")
    assert scale["clients"]["100 clients"]["slowdown"] == 1
    memory = run(tmp_path, "bench_memory.py", "--cohort", "10", "--hidden", "100")["memory"]
    assert memory["in-process"]["parameters"] == memory["two Ray workers"]["parameters"] == 784 * 100 + 100 + 1010
    gpu = run(tmp_path, "bench_gpu.py", "--device", "cpu", "--tiny")
    assert gpu["cifar10_iid"]["auto"]["rounds"] == 3
