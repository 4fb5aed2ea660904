"""An exported model describes itself and predicts as the run did, in every format."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from sklearn.datasets import load_digits

import fedsim
from fedsim.errors import FedsimError
from fedsim.models.portable import FORMATS
from tests.tiny_runs import Cli

DIGITS = (load_digits().images[:50] * (255 / 16)).round().astype(np.uint8)


@pytest.fixture(scope="module")
def pruned(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from unlearning.pipeline.prune import prune

    run = shutil.copytree(tiny_run, tmp_path_factory.mktemp("runs") / "tiny")
    return prune(run, "l2", "flops=0.5", data="none").folder


@pytest.fixture(params=["run", "pruned"])
def folder(request: pytest.FixtureRequest, tiny_run: Path, pruned: Path) -> Path:
    return tiny_run if request.param == "run" else pruned


def test_it_predicts_raw_images_as_the_run_does(folder: Path) -> None:
    model = fedsim.load_model(folder)
    accuracy = json.loads((folder / "summary.json").read_text())["metrics"]["global/accuracy"]
    from fedsim.config.resolve import read_yaml, resolve
    from fedsim.data.datasets import load_dataset

    config = resolve(read_yaml(folder / "config.yaml"))
    dataset = load_dataset(config.data, config.seed)
    assert np.mean(model.predict(dataset.x_test) == dataset.y_test) == pytest.approx(accuracy, abs=1e-9)
    assert (model.predict(DIGITS) == model.predict(torch.from_numpy(DIGITS)[:, None].double())).all()
    assert len(model.predict_names(DIGITS[:3])) == 3
    assert len(model.predict(DIGITS[:0])) == 0


@pytest.mark.filterwarnings("ignore:`torch.jit.load` is deprecated")
@pytest.mark.parametrize("form", FORMATS)
def test_every_format_puts_out_the_same(folder: Path, form: str, cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "model"
    done = cli("export", folder, f"--format={form}", f"--out={file}")
    assert (done.code, done.err, done.out.strip()) == (0, "", str(file))
    model = fedsim.load_model(folder)
    raw, says = torch.from_numpy(DIGITS)[:, None].float(), model.description
    if form == "safetensors":
        loaded = fedsim.load_model(file)
        logits, described = loaded.outputs(DIGITS), loaded.description.model_dump(mode="json")
    elif form == "torchscript":
        extra = {"fedsim.json": ""}
        logits, described = (
            torch.jit.load(file, _extra_files=extra)(raw).detach().numpy(),
            json.loads(extra["fedsim.json"]),
        )
    else:
        read = onnx.load(file)
        (logits,) = ReferenceEvaluator(read).run(None, {"raw": raw.numpy()})
        described = json.loads({entry.key: entry.value for entry in read.metadata_props}["fedsim"])
    assert np.abs(logits - model.outputs(DIGITS)).max() < 1e-4
    assert described == json.loads(json.dumps(says.model_dump(mode="json")))
    assert cli("export", folder, f"--format={form}", f"--out={file}").code == 2


def test_it_loads_where_no_data_and_no_flower_are(tiny_run: Path, tmp_path: Path) -> None:
    code = (
        "import sys; sys.modules.update(flwr=None, ray=None, sklearn=None); import fedsim, numpy as np; "
        f"model = fedsim.load_model({str(tiny_run)!r}); print(model.predict(np.zeros((2, 8, 8), np.uint8)).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.stdout, done.stderr) == ("(2,)\n", "")


def test_group_norm_is_exported_without_a_word(tmp_path: Path, cli: Cli, no_pictures: None) -> None:
    config = {"clients": 2, "rounds": 1, "cohort": 1, "training": {"epochs": 1}, "out": str(tmp_path)}
    run = fedsim.run({**config, "model": {"name": "cnn", "norm": "group", "width": 4}}).folder
    done = cli("export", run, "--format", "onnx", "--out", tmp_path / "m.onnx")
    assert (done.code, done.err) == (0, "")


def test_the_lines_of_the_page_for_a_machine_without_fedsim(tiny_run: Path, tmp_path: Path, cli: Cli) -> None:
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(import json\n.*?)```", page, re.DOTALL)
    for form, end in (("safetensors", "safetensors"), ("torchscript", "pt")):
        assert cli("export", tiny_run, "--format", form, "--out", tmp_path / f"first.{end}").code == 0
    told = "import sys\nprint(sorted(weights), *logits.shape, told['outputs'], 'fedsim' in sys.modules)"
    command = [sys.executable, "-I", "-W", "ignore", "-c", lines + told]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    names = "['classifier.bias', 'classifier.weight', 'features.1.bias', 'features.1.weight']"
    assert done.stdout == f"{names} 1 10 10 False\n"


def test_what_is_no_model_or_no_input_is_refused(tiny_run: Path, tmp_path: Path) -> None:
    with pytest.raises(FedsimError, match=r"takes arrays of shape \(N, 1, 8, 8\); got \(3, 1, 9, 9\)"):
        fedsim.load_model(tiny_run).predict(np.zeros((3, 9, 9)))
    with pytest.raises(FedsimError, match=r"does not describe a model"):
        fedsim.load_model(tmp_path)
    (tmp_path / "junk").write_bytes(b"junk")
    with pytest.raises(FedsimError, match=r"does not describe a model"):
        fedsim.load_model(tmp_path / "junk")
