"""One trial: fedsim's commands in their own processes, completed as a user would, and compared."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import re
import shlex
import shutil
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedsim.cli.main import main as fedsim_main
from fedsim.runs import runner
from unlearning.pipeline import page, prune  # noqa: F401 -- imported once, not in every child
from unlearning.pipeline import runner as unlearning_runner  # noqa: F401 -- as above

SHARED = [
    "--clients=6", "--cohort=3", "--rounds=4", "--partition=iid", "--model=mlp", "--set=model.hidden=[16]",
    "--set=training.vectorize=never", "--set=training.chunk=2", "--set=training.epochs=1",
    "--set=checkpoint_every=2", "--set=eval_every=2", "--set=engine.state_memory_mb=0", "--set=data.max_per_class=20",
]  # fmt: skip
RECIPES = {
    "fedavg": ["--strategy=fedavg"],
    "states": ["--strategy=fedrep", "--set=history.keep=updates"],
    "server": ["--strategy=fedadam", "--set=history.keep=norms"],
}
FORGET = ["--method=finetune", "--forget=client=1", "--name=forgotten"]
MORE = ["--method=finetune", "--forget=client=2", "--name=more"]
BAD = ("lost", "silent", "crash")
CHANGED = "was changed since the run began"
PATIENCE_S = 1800
_CODES = (0, 1, 2, 129, 130, 143, *(-number for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)))
"""Exit codes of the commands. A command that is told to end by a signal has its number, as shells and schedulers
expect."""
_HELD = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Failed(Exception):
    """A trial ended badly: (verdict, observation)."""


@dataclass
class Command:
    """A fedsim command in its own process."""

    arguments: list[str]
    pid: int
    log: Path

    def send(self, number: int) -> None:
        """Send a signal to the process."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Wait for the end and return the result.

        Raises
        ------
        Failed
                If it hangs, or its output is not one error line.
        """
        deadline = time.monotonic() + PATIENCE_S
        while (done := os.waitpid(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                self.send(signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise Failed("lost", f"{shlex.join(self.arguments)} hangs")
            time.sleep(0.005)
        out, err = (self.log.with_suffix(suffix).read_text(errors="replace") for suffix in (".out", ".err"))
        ended = Ended(os.waitstatus_to_exitcode(done[1]), out, err)
        killed = ended.code == -signal.SIGKILL
        lines = [line for line in err.splitlines() if not line.startswith("warning: ")]
        if "Traceback" in out + err or len(lines) > 1 or (ended.code not in (0, -9) and len(lines) != 1):
            raise Failed("crash", f"{shlex.join(self.arguments)}: {ended.code}\n{err[-2000:]}")
        if not killed and ended.code not in _CODES:
            raise Failed("crash", f"{shlex.join(self.arguments)}: exit code {ended.code} {err[-500:]}")
        return ended


@dataclass
class Ended:
    """The result of a command."""

    code: int
    out: str
    err: str


@dataclass
class Trial:
    """One trial: the folder it writes to, its random generator, and the undisturbed run for comparison."""

    number: int
    folder: Path
    rng: random.Random
    whole: Whole
    notes: list[str] = field(default_factory=list)
    told: bool = False
    commands: int = 0

    @property
    def run(self) -> Path:
        """The folder of the run."""
        return self.folder / "run"

    def start(self, *arguments: str | Path, before: Callable[[], object] = lambda: None) -> Command:
        """Start a command; `before` runs in its process first."""
        self.commands += 1
        log = self.folder / f"command-{self.commands}"
        for suffix in (".out", ".err"):
            log.with_suffix(suffix).touch()
        words = [str(argument) for argument in arguments]
        sys.stdout.flush()
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)  # until the child runs fedsim
        pid = os.fork()
        if pid == 0:
            _become(words, log, before)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        return Command(words, pid, log)

    def begin(self, *more: str, before: Callable[[], object] = lambda: None) -> Command:
        """Start the run of this trial."""
        return self.start("run", *self.whole.flags, f"--out={self.folder}", "--name=run", *more, before=before)

    def finish(self, *, unlearned: bool = False) -> None:
        """Complete the run as a user would, and compare."""
        for _ in range(6):
            ended = (self.start("run", "--resume", self.run) if self.run.exists() else self.begin()).wait()
            if ended.code == 0:
                break
            self.heed(ended)
        else:
            raise Failed("lost", f"does not come to its end: {ended.err}")
        self.compare(self.run, self.whole.run, ended)
        if unlearned:
            self.unlearn()

    def unlearn(self) -> None:
        """Unlearn a client, and compare."""
        done = self.start("unlearn", self.run, *FORGET, "--force").wait()
        if done.code != 0:
            raise Failed("lost", f"cannot be unlearned any more: {done.err}")
        self.compare(self.run / "unlearned" / "forgotten", self.forgotten(), done)

    def forgotten(self) -> Path:
        """Return the outcome of unlearning the undisturbed run; it is made at the first call."""
        return self._unlearned(FORGET)

    def more(self) -> Path:
        """Return the outcome of forgetting another client after that."""
        self._unlearned(FORGET)
        return self._unlearned(MORE)

    def _unlearned(self, request: list[str]) -> Path:
        folder = self.whole.run / "unlearned" / request[-1].removeprefix("--name=")
        if not folder.exists() and self.start("unlearn", self.whole.run, *request).wait().code != 0:
            raise Failed("lost", "an undisturbed run cannot be unlearned")
        return folder

    def heed(self, ended: Ended) -> None:
        """Do what an error line proposes."""
        self.told = True
        self.notes.append(ended.err.strip().replace(str(self.folder), "..."))
        if match := re.search(r"(\S+/round-\d+): the checkpoint is damaged; remove that folder", ended.err):
            shutil.rmtree(match[1])
        elif "start the run again" in ended.err or "run it anew" in ended.err or "give another run" in ended.err:
            shutil.rmtree(self.run)
        elif "config.yaml" in ended.err or re.search(r"error: [\w.]+: |its checkpoint was made with", ended.err):
            shutil.rmtree(self.run)  # a key that no longer exists: a user would restore it or start again

    def compare(self, folder: Path, like: Path, ended: Ended) -> None:
        """Compare the bits of two finished folders."""
        found, wanted = outcome(folder), outcome(like)
        if found == wanted:
            return
        differing = [key for key in wanted if found[key] != wanted[key]]
        warned = "warning: " in ended.err and differing == ["history"]
        if warned or CHANGED in ended.out:
            self.told = True
            return
        raise Failed("silent", f"{folder.name}: other {differing}: {[(found[k], wanted[k]) for k in differing][:1]}")


@dataclass
class Whole:
    """An undisturbed run: finished, unlearned, and left incomplete once."""

    flags: list[str]
    run: Path
    half: Path
    events: int
    seconds: float


def _become(words: list[str], log: Path, before: Callable[[], object]) -> None:
    """Replace the child process by the command."""
    code = 70
    try:
        for number, suffix in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.setpgid(0, 0)
        for number in _HELD:
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _HELD)
        runner._write_pictures = lambda folder: None
        before()
        fedsim_main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        signal.pthread_sigmask(signal.SIG_BLOCK, _HELD)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def outcome(folder: Path) -> dict[str, Any]:
    """Return the content of a finished folder for comparison: everything except times."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in text_of(folder / "metrics.jsonl").splitlines()]
    history = sorted(path for path in (folder / "history").rglob("*") if path.is_file())
    return {
        "status": summary["status"],
        "model": summary["model_sha256"],
        "file": hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest(),
        "metrics": [
            {n: v for n, v in line["metrics"].items() if n != "train/clients_per_s"} | {"round": line["round"]}
            for line in lines
        ],
        "history": {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in history},
        "ledger": text_of(folder / "privacy.json"),
        "left": sorted(path.name for path in folder.iterdir() if path.name.startswith(".")),
    }


def text_of(file: Path) -> str:
    """Return the content of a file; empty if the file does not exist."""
    return file.read_text() if file.exists() else ""
