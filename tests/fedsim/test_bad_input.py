"""Every mistake of a user is one line with exit code 2, and nothing is written."""

import json
import os
import shlex
import shutil
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from fedsim.sealed import seal, sha256, unseal
from tests.one_line import assert_one_line, snapshot
from tests.tiny_runs import Cli

# (command line, what its one line says, parts of it left out as ...); {port} is filled in. They run in `place`.
CASES = [
    # Names that do not exist: the nearest one is offered.
    ("run --strategy fedlodge", "strategy.name: ... 'fedlodge' ... did you mean 'fedloge'? ... fedprox"),
    (
        "run --set history.keep=updates --set privacy.client.noise_multiplier=1",
        "history.keep: must be none with privacy.client, as clients send clipped differences",
    ),
    ("run --strategy ''", "strategy.name: ... '' ... valid: ... fedavg"),
    ("run --set strategy=3", "strategy.name: ... 3 ... valid: ... fedavg"),
    ("run --set strategy.name=null", "strategy.name: ... null ... valid: ... fedavg"),
    ("run --config quick", "--config quick ... neither a file nor a preset; ... fedavg_digits"),
    ("run --config absent.yaml", "--config absent.yaml ... neither a file nor a preset"),
    ("run --dataset mnits", "data.name: ... 'mnits' ... did you mean 'mnist'?"),
    ("run --dataset npz:", "data.name: ... 'npz:' ... npz:PATH"),
    ("run --dataset csv:", "data.name: ... 'csv:' ... csv:PATH"),
    ("run --dataset csv:absent.csv", "absent.csv: no such file"),
    ("run --set data.target_scale=[0,0]", "data.target_scale.1: must be greater than 0, got 0"),
    ("run --dataset diabetes --partition dirichlet", "data.partition: dirichlet splits by class ... --partition iid"),
    (
        "run --strategy aggregate --set strategy.bag_size=many",
        "strategy.bag_size: must be a whole number from 1, or auto, got 'many'",
    ),
    (
        "run --strategy aggregate --set strategy.bag_size=0",
        "strategy.bag_size: must be a whole number from 1, or auto, got 0",
    ),
    (
        "run --strategy aggregate --set strategy.bag_size=5000",
        "strategy.bag_size: no client has 5000 samples; lower it",
    ),
    ("run --partition dirichle", "data.partition: ... 'dirichle' ... did you mean 'dirichlet'?"),
    ("run --model restnet18", "model.name: ... 'restnet18' ... did you mean 'resnet18'?"),
    ("run --engine inproces", "engine.name: ... 'inproces' ... did you mean 'inprocess'? ... ray"),
    (
        "run --set training.vectorize=alway",
        "training.vectorize: ... 'alway' ... did you mean 'always'? ... never",
    ),
    ("run --set training.optimizer=adm", "training.optimizer: ... 'adm' ... did you mean 'adam'?"),
    ("run --set eval_clients=som", "eval_clients: ... 'som' ... seen"),
    ("run --set model.norm=btch", "model.norm: ... 'btch' ... did you mean 'batch'?"),
    (
        "run --strategy fedloge --set strategy.etf_method=lbfsg",
        "strategy.etf_method: ... 'lbfsg' ... did you mean 'lbfgs'?",
    ),
    # Keys that do not exist, on every level.
    ("run --set nme=x", "nme: no such key; did you mean 'name'?"),
    ("run --set partition.alpha=1", "partition: no such key; did you mean 'data.partition.alpha'?"),
    ("run --set partition=iid", "partition: no such key; did you mean 'data.partition'?"),
    ("run --strategy fedprox --set mu=1", "mu: no such key; did you mean 'strategy.mu'?"),
    ("run --set lr=0.1", "lr: no such key; did you mean 'server.lr' or 'training.lr'?"),
    ("run --set training.lrr=0.1", "training.lrr: no such key; did you mean 'lr'?"),
    ("run --set strategy.mu=0.1", "strategy.mu: no such key; fedavg has no options"),
    ("run --strategy fedprox --set strategy.nu=0.1", "strategy.nu: no such key of fedprox; valid: mu"),
    ("run --set data.nam=digits", "data.nam: no such key; did you mean 'name'?"),
    ("run --set data.partition.alhpa=1", "data.partition.alhpa: no such key; did you mean 'alpha'?"),
    ("run --partition iid --set data.partition.alpha=1", "data.partition.alpha: no such key; valid: name"),
    ("run --set model.widht=3", "model.widht: no such key; did you mean 'width'?"),
    ("run --set engine.threds=3", "engine.threds: no such key; did you mean 'threads'?"),
    ("run --set faults.dropuot=0.1", "faults.dropuot: no such key; did you mean 'dropout'?"),
    ("run --set training.lr.x=3", "training.lr: is a value, not a section ... 'x'"),
    # Wrong types.
    ("run --set training.lr=fast", "training.lr: must be a number, got 'fast'"),
    ("run --set training.lr=null", "training.lr: must be a number, got null"),
    ("run --set training.lr=.nan", "training.lr: must be a finite number, got nan"),
    ("run --set training.lr=.inf", "training.lr: must be a finite number, got inf"),
    ("run --set training.epochs=1.5", "training.epochs: must be a whole number, got 1.5"),
    ("run --set training.epochs=yes", "training.epochs: must be a whole number, got 'true'"),
    ("run --set clients=1e3", "clients: must be a whole number, got '1e3'"),
    ("run --set clients=[1]", "clients: must be a whole number, got [1]"),
    ("run --set engine.dashboard=3", "engine.dashboard: must be true or false, got 3"),
    ("run --set model.hidden=7 --model mlp", "model.hidden: must be a list, got 7"),
    ("run --set model.hidden=[] --model mlp", "model.hidden: must have 1 or more entries, got []"),
    ("run --set model.hidden=[a] --model mlp", "model.hidden.0: must be a whole number, got 'a'"),
    ("run --set data=digits", "data: is a section, so it cannot be 'digits'; ... data.name"),
    ("run --set training=3", "training: is a section, so it cannot be 3; ... training.epochs"),
    ("run --set data.partition=[1]", "data.partition: is a section, so it cannot be [1]; ... data.partition.name"),
    ("run --clients ten", "--clients ... 'ten' is not a valid integer; see: fedsim run --help"),
    ("run --clients 1.5", "--clients ... '1.5' is not a valid integer"),
    ("run --seed x", "--seed ... 'x' is not a valid integer"),
    # Out of range.
    ("run --rounds 0", "rounds: must be at least 1, got 0"),
    ("run --clients 0", "clients: must be at least 1, got 0"),
    ("run --seed -1", "seed: must be at least 0, got -1"),
    ("run --set training.lr=0", "training.lr: must be greater than 0, got 0"),
    ("run --set training.momentum=1", "training.momentum: must be less than 1, got 1"),
    ("run --set training.momentum=-0.1", "training.momentum: must be at least 0, got -0.1"),
    ("run --set data.partition.alpha=0", "data.partition.alpha: must be at least 0.001, got 0"),
    ("run --set data.partition.alpha=-1", "data.partition.alpha: must be at least 0.001, got -1"),
    ("run --set data.imbalance_factor=0", "data.imbalance_factor: must be greater than 0, got 0"),
    ("run --set faults.dropout=1.5", "faults.dropout: must be at most 1, got 1.5"),
    ("run --set faults.dropout=0.8 --set faults.error=0.4", "faults: dropout + error + nan ... at most 1, got 1.2"),
    ("run --set engine.dashboard_port=70000", "engine.dashboard_port: must be at most 65535, got 70000"),
    ("run --name a/b", "name: must be letters, digits ... got 'a/b'; folders go to --out"),
    ("run --name ..", "name: must be letters, digits ... got '..'; folders go to --out"),
    ("run --strategy fedprox --set strategy.mu=-1", "strategy.mu: must be at least 0, got -1"),
    # What does not go together.
    ("run --clients 5000", "clients: must be from 1 to 1317, the number of training samples, got 5000"),
    ("run --clients 10 --cohort 11", "cohort: must be at most clients (10), got 11"),
    ("run --cohort 0", "cohort: must be at least 1, got '0'"),
    ("run --cohort 0%", "cohort: must be a whole number of clients, or a share ... got '0%'"),
    ("run --cohort 130%", "cohort: ... to 100%, got '130%'"),
    ("run --cohort half", "cohort: must be a whole number of clients, or a share ... got 'half'"),
    ("run --cohort 0.3", "cohort: must be a whole number of clients, or a share ... got '0.3'"),
    ("run --set cohort=[1]", "cohort: must be a whole number of clients, or a share ... got [1]"),
    ("run --clients 10 --set min_replies=11", "min_replies: must be at most the cohort (10), got 11"),
    ("run --clients 10 --cohort 20% --set min_replies=3", "min_replies: must be at most the cohort (2), got 3"),
    (
        "run --strategy krum --set strategy.num_malicious_nodes=5 --clients 10",
        "strategy.num_malicious_nodes: 5 ... cohort of at least 13, got 10",
    ),
    ("run --partition natural", "data.partition: natural needs an `identity` array"),
    ("run --set data.partition.min_samples=1000", "data.partition: ... lower min_samples or raise alpha"),
    (
        "run --partition sites --set data.partition.priors=[[1,2],[0,0]]",
        "data.partition.priors: site 1: must have a number per class, not all 0, got [0.0, 0.0]",
    ),
    ("run --partition sites --set data.partition.priors=[[1,2]]", "data.partition.priors: needs 20 ... got 1 of 2"),
    ("run --set eval_metrics=auc", "eval_metrics: no such choice, got 'auc'; valid: accuracy, all, auto"),
    (
        "run --partition shards --set data.partition.shards_per_client=999",
        "data.partition: ... lower shards_per_client",
    ),
    ("run --set data.imbalance_factor=0.00001", "data.imbalance_factor: 1e-05 ... raise it"),
    ("run --model lenet5", "model.name: lenet5 ... 12x12 ... (1, 8, 8) ... try mlp or cnn"),
    ("run --model resnet18 --set model.hidden=[3]", "model.hidden: resnet18 has no such option (it takes: width)"),
    ("run --model vit --set model.norm=batch", "model.norm: vit ... 'batch'"),
    ("run --strategy fedbn --model logistic", "model.norm: fedbn keeps batch norm ... such as mlp or cnn"),
    (
        "run --strategy fedloge --set strategy.sparsity=0.99",
        "strategy.sparsity ... 0.99 is too high ... use at most 0.7",
    ),
    # Machine.
    ("run --set engine.device=gpu", "engine.device: must be auto, cpu, cuda or cuda:N, got 'gpu'"),
    ("run --set engine.device=meta", "engine.device: must be auto, cpu, cuda or cuda:N, got 'meta'"),
    ("run --set engine.device=cuda:99", "engine.device: cuda:99 ... GPUs are here; use auto or cpu"),
    ("run --ray-address 127.0.0.1:1", "engine.ray_address: ... '127.0.0.1:1' ... HOST:PORT"),
    ("run --ray-address nonsense", "engine.ray_address: ... 'nonsense' ... HOST:PORT"),
    (
        "run --dashboard --set engine.dashboard_port={port}",
        "engine.dashboard_port: port {port} ... is in use; choose another",
    ),
    # Files.
    ("run --config broken.yaml", "broken.yaml: line 2: not valid YAML"),
    ("run --config twice.yaml", "twice.yaml: line 3: ... the key 'lr' is given twice"),
    ("run --config list.yaml", "list.yaml: must hold `key: value` lines, got ['rounds', 3]"),
    ("run --config empty.yaml", "empty.yaml: must hold `key: value` lines, got null"),
    ("run --config recursive.yaml", "recursive.yaml: line 1: not valid YAML ... values"),
    ("run --config object.yaml", "object.yaml: line 1: not valid YAML ... python/object"),
    ("run --config binary.yaml", "binary.yaml: cannot be read as a configuration"),
    ("run --config section.yaml", "training: is a section, so it cannot be null; ... training.epochs"),
    ("run --config deep.yaml", "data.partition.alpha: must be at least 0.001, got -3"),
    ("run --set training.lr", "--set training.lr: must have the form key.path=value"),
    ("run --set =3", "--set =3: must have the form key.path=value"),
    ("run --set training..lr=1", "--set training..lr=1: must have the form key.path=value"),
    ("run --set training.lr=[1", "--set training.lr=[1: ... not valid YAML; quote it"),
    ("run --dataset npz:absent.npz", "absent.npz: no such file"),
    ("run --dataset npz:cut.npz", "cut.npz: not a sound NumPy .npz archive"),
    ("run --dataset npz:pickled.npz", "pickled.npz: ... it holds Python objects"),
    ("run --dataset npz:lacking.npz", "lacking.npz: lacks y_train; needs x_train"),
    ("run --dataset npz:lengths.npz", "lengths.npz: y ... int64 of shape (7,); needs integers of shape (8,)"),
    ("run --dataset npz:notrun", "notrun: not a sound NumPy .npz archive"),
    ("run --dataset mnist --data-root nodata", "data.name: mnist ... nodata/mnist.npz ... --data-root ... FEDSIM_DATA"),
    (
        "run --dataset cifar10 --data-root nodata",
        "data.name: cifar10 ... nodata/cifar10.npz ... --data-root ... FEDSIM_DATA",
    ),
    (
        "run --dataset pneumoniamnist --data-root nodata",
        "data.name: pneumoniamnist is not in ... curl -L -o ... nodata/pneumoniamnist.npz",
    ),
    # Run folders.
    ("run --out runs --name tiny", "runs/tiny: exists already; choose another --name ... --force"),
    ("run --out . --name notrun --force", "notrun: is no run folder, so --force does not replace it"),
    ("run --out . --name afile --force", "afile: is no run folder, so --force does not replace it"),
    ("run --out afile", "afile/fedavg-digits ... cannot be written (Not a directory); choose another --out"),
    (
        "run --out afile/below",
        "afile/below/fedavg-digits ... cannot be written (Not a directory); choose another --out",
    ),
    (
        "run --out /proc/new",
        "/proc/new/fedavg-digits ... cannot be written (No such file or directory); choose another --out",
    ),
    ("run --name " + "x" * 300, "cannot be written (File name too long)"),
    ("run --resume absent", "absent: no such run folder"),
    ("run --resume notrun", "notrun: not a run folder, it has no config.yaml"),
    ("run --resume afile", "afile: is a file, not a run folder"),
    ("run --resume runs", "runs: not a run folder ... give one of the runs in it: ... cut_tensors"),
    ("run --resume runs/tiny --clients 3", "--resume: ... runs/tiny/config.yaml ... leave out clients"),
    ("run --resume runs/tiny --force", "--resume: ... leave out --force"),
    ("run --resume runs/tiny --config x", "--resume: ... leave out --config"),
    ("run --resume runs/tiny --set a=b", "--resume: ... leave out a"),
    (
        "run --resume runs/cut_tensors",
        "runs/cut_tensors ... round-00000003: the checkpoint is damaged; remove that folder to go on "
        "from the one of round 2, which is whole",
    ),
    ("run --resume runs/garbage_state", "runs/garbage_state ... round-00000003: the checkpoint is damaged"),
    ("run --resume runs/wrong_state", "runs/wrong_state ... round-00000003: the checkpoint is damaged"),
    (
        "run --resume runs/other_model",
        "runs/other_model: model.hidden: its checkpoint was made with [32], not [7]; undo the change",
    ),
    (
        "run --resume runs/other_method",  # of which nothing else would tell: FedProx sends and keeps what FedAvg does
        "runs/other_method: strategy.name: its checkpoint was made with 'fedavg', not 'fedprox'; undo the change",
    ),
    ("run --resume runs/other_rate", "runs/other_rate: training.lr: its checkpoint was made with 0.1, not 0.2; undo"),
    ("run --resume runs/other_code", "runs/other_code: its checkpoint is of another version of fedavg or mlp; start a"),
    ("run --resume runs/bad_config", "rounds: must be a whole number, got 'many'"),
    ("run --resume runs/broken_config", "runs/broken_config/config.yaml ... malformed ... line 1"),
    ("show absent", "absent: no such run folder"),
    ("show afile", "afile: is a file, not a run folder"),
    ("show", "'RUN' ... see: fedsim show --help"),
    (
        "show runs/broken_metrics",
        "runs/broken_metrics/metrics.jsonl: line 1 is malformed (round: Field required); fedsim run --resume",
    ),
    ("report", "'RUNS...' ... see: fedsim report --help"),
    ("report runs/tiny absent", "absent: no such run folder"),
    (
        "report runs/tiny --out afile/report.html",
        "afile/report.html: cannot be written (File exists); give another place",
    ),
    ("report runs/tiny --out notrun", "notrun: cannot be written (Is a directory); give another place"),
    # The command line itself.
    ("rnu", "fedsim rnu: no such command; did you mean 'run'? ... list, options, personalize"),
    ("run --nope", "No such option '--nope' ... see: fedsim run --help"),
    ("run extra", "unexpected extra argument (extra); see: fedsim run --help"),
    ("run --clients", "'--clients' requires an argument; see: fedsim"),
    ("list strategis", "list strategis: no such list; did you mean 'strategies'?"),
    ("list strategies models", "unexpected extra argument (models); see: fedsim list --help"),
]


@pytest.fixture(scope="module")
def place(tiny_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make the folder of bad files and damaged runs that the cases refer to."""
    folder = tmp_path_factory.mktemp("place")
    (folder / "afile").write_text("no run")
    (folder / "notrun").mkdir()
    (folder / "notrun" / "precious").write_text("keep me")
    texts = {
        "broken": "rounds: 3\ntraining: {lr: [1}\n",
        "twice": "training:\n  lr: 0.1\n  lr: 0.2\n",
        "list": "[rounds, 3]",
        "empty": "",
        "recursive": "training: &t\n  lr: *t\n",
        "object": "rounds: !!python/object:fedsim.Bad {}\n",
        "section": "training:\nrounds: 3\n",
        "deep": "data:\n  partition: {name: dirichlet, alpha: -3}\n",
    }
    for name, text in texts.items():
        (folder / f"{name}.yaml").write_text(text)
    (folder / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    x, y = np.zeros((8, 4, 4), np.uint8), np.arange(8) % 2
    np.savez(folder / "lengths.npz", x=x, y=y[:7])
    np.savez(folder / "lacking.npz", x_train=x, x_test=x, y_test=y)
    np.savez(folder / "pickled.npz", x=x, y=np.array([print] * 8, dtype=object))
    (folder / "cut.npz").write_bytes((folder / "lengths.npz").read_bytes()[:200])

    def damaged(name: str) -> Path:
        return Path(shutil.copytree(tiny_run, folder / "runs" / name))

    damaged("tiny")
    newest = Path("checkpoints") / "round-00000003"
    os.truncate(damaged("cut_tensors") / newest / "tensors.safetensors", 500)
    (damaged("garbage_state") / newest / "state.json").write_text("{]")
    state = damaged("wrong_state") / newest / "state.json"
    state.write_text(json.dumps(json.loads(state.read_text()) | {"metrics": [3]}))
    for name, change in {
        "other_model": {"model": {"name": "mlp", "hidden": [7]}},
        "other_method": {"strategy": {"name": "fedprox", "mu": 0.1}},
        "other_rate": {"training": {"lr": 0.2, "vectorize": "never", "chunk": 5, "epochs": 1}},
        "bad_config": {"rounds": "many"},
    }.items():
        config = damaged(name) / "config.yaml"
        config.write_text(yaml.safe_dump(yaml.safe_load(config.read_text()) | change))
    tensors = damaged("other_code") / newest / "tensors.safetensors"
    save_file({name: value[:1].clone() for name, value in load_file(tensors).items()}, tensors)
    state = tensors.with_name("state.json")
    content = json.loads(unseal(state.read_bytes()))
    content["files"]["tensors.safetensors"] = sha256(tensors)  # by whoever made it
    state.write_bytes(seal(json.dumps(content, indent=1)))
    (damaged("broken_config") / "config.yaml").write_text("}")
    (damaged("broken_metrics") / "metrics.jsonl").write_text("{}\n" * 3)
    return folder


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise urllib.error.URLError("no network here")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


@pytest.fixture(scope="module")
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield listener.getsockname()[1]


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(("line", "needles"), CASES, ids=[line[:70] for line, _ in CASES])
def test_a_mistake_is_one_line(
    line: str, needles: str, place: Path, taken_port: int, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    if "dashboard_port={port}" in line:
        pytest.importorskip("ray")
    monkeypatch.chdir(place)
    before = snapshot(place)
    outcome = cli(*shlex.split(line.replace("{port}", str(taken_port))))
    assert outcome.code == 2
    assert outcome.out == ""
    assert_one_line(outcome.err, needles.replace("{port}", str(taken_port)))
    assert snapshot(place) == before


def test_the_table_is_long_enough() -> None:
    assert len(CASES) == len(set(CASES)) >= 40


@pytest.mark.parametrize("line", ["run --set training.lr=0", "show absent"])
def test_a_mistake_is_one_line_of_the_real_program(line: str, place: Path) -> None:
    before = snapshot(place)
    done = subprocess.run(
        [sys.executable, "-m", "fedsim", *shlex.split(line)], cwd=place, capture_output=True, text=True
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert_one_line(done.stderr, "error: ")
    assert snapshot(place) == before
