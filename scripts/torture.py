"""Break runs on purpose, and count what is lost, what changes without a word, and what ends in a traceback.

    python scripts/torture.py --minutes 30                   # goes on where it was left; about 1 to 3 seconds a trial
    python scripts/torture.py --minutes 30 --kinds ray_worker,ray_raylet,ray_gcs --seed 1     # on Ray: a minute each

A trial is drawn from its number and `--seed`: a run, an unlearning or two of them at once are killed, signalled,
starved of disk, raced against each other, or found with a flipped bit. Afterwards everything is brought to its end as a
user would, with the commands that the error lines name. Each trial ends as

    same     to the bits of an undisturbed run
    told     in one line, and what the line proposes leads to the same bits
    lost     neither: the run cannot be brought to its end
    silent   with other bits, and nobody said a word
    crash    with a traceback, or with more than one line

`trials.jsonl` in `--out` keeps one line per trial; the table is printed at the end. It exits with 1 if a trial ended as
one of the last three.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import json
import os
import random
import re
import resource
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from fedsim.cli.main import main as fedsim_main
from fedsim.engine.worker import Worker
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
PROGRAM = """
import sys
from fedsim.cli.main import main
from fedsim.runs import runner
runner._write_pictures = lambda folder: None
main(sys.argv[1:])
"""
BAD = ("lost", "silent", "crash")
_PATIENCE_S = 300


class Failed(Exception):
    """A trial ended as it must not: (verdict, what was seen)."""


@dataclass
class Command:
    """A command of fedsim in a process of its own."""

    arguments: list[str]
    pid: int
    log: Path

    def send(self, number: int) -> None:
        """Send it a signal."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)

    def wait(self) -> Ended:
        """Return how it ended.

        Raises
        ------
        Failed
            If it hangs, or ends in anything but one line.
        """
        deadline = time.monotonic() + _PATIENCE_S
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
        if not killed and ended.code not in (0, 1, 2, 129, 130, 143):
            raise Failed("crash", f"{shlex.join(self.arguments)}: exit code {ended.code} {err[-500:]}")
        return ended


@dataclass
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str


@dataclass
class Trial:
    """One trial: where it may write, what it draws from, and what it compares with."""

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
        """Begin a command; `before` runs in its process first."""
        self.commands += 1
        log = self.folder / f"command-{self.commands}"
        words = [str(argument) for argument in arguments]
        sys.stdout.flush()
        pid = os.fork()
        if pid == 0:
            _become(words, log, before)
        return Command(words, pid, log)

    def begin(self, *more: str, before: Callable[[], object] = lambda: None) -> Command:
        """Begin the run of this trial."""
        return self.start("run", *self.whole.flags, f"--out={self.folder}", "--name=run", *more, before=before)

    def finish(self, *, unlearned: bool = False) -> None:
        """Bring the run to its end as a user would, and compare."""
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
        """Unlearn, and compare."""
        done = self.start("unlearn", self.run, *FORGET, "--force").wait()
        if done.code != 0:
            raise Failed("lost", f"cannot be unlearned any more: {done.err}")
        self.compare(self.run / "unlearned" / "forgotten", self.forgotten(), done)

    def forgotten(self) -> Path:
        """Return what the undisturbed run comes to when it is unlearned; made when first asked for."""
        folder = self.whole.run / "unlearned" / "forgotten"
        if not folder.exists() and self.start("unlearn", self.whole.run, *FORGET).wait().code != 0:
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
            shutil.rmtree(self.run)  # a key that is no key any more: a user would restore it or begin anew

    def compare(self, folder: Path, like: Path, ended: Ended) -> None:
        """Compare the bits of two finished folders."""
        found, wanted = outcome(folder), outcome(like)
        if found == wanted:
            return
        differing = [key for key in wanted if found[key] != wanted[key]]
        warned = "warning: " in ended.err and differing == ["history"]
        if warned or "was changed since the run began" in ended.out:
            self.told = True
            return
        raise Failed("silent", f"{folder.name}: other {differing}: {[(found[k], wanted[k]) for k in differing][:1]}")


@dataclass
class Whole:
    """An undisturbed run, finished, unlearned, and once left half-way."""

    flags: list[str]
    run: Path
    half: Path
    events: int
    seconds: float


def _become(words: list[str], log: Path, before: Callable[[], object]) -> None:
    """Be the command, in a child."""
    code = 70
    try:
        for number, suffix in ((1, ".out"), (2, ".err")):
            os.dup2(os.open(log.with_suffix(suffix), os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        os.setpgid(0, 0)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL)
        runner._write_pictures = lambda folder: None
        before()
        fedsim_main(words)
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(code)


def outcome(folder: Path) -> dict[str, Any]:
    """Return what a finished folder is compared by: all but times."""
    summary = json.loads((folder / "summary.json").read_text())
    lines = [json.loads(line) for line in _text(folder / "metrics.jsonl").splitlines()]
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
        "ledger": _text(folder / "privacy.json"),
        "left": sorted(path.name for path in folder.iterdir() if path.name.startswith(".")),
    }


def _text(file: Path) -> str:
    return file.read_text() if file.exists() else ""


# What breaks them -----------------------------------------------------------------------------------------------------


def dying_at(event: int, count_file: Path | None = None) -> Callable[[], None]:
    """Return what makes a process kill itself before its nth event, and note how many there were."""

    def arm() -> None:
        count = 0

        def wrap(owner: Any, name: str) -> None:
            inner = getattr(owner, name)

            @functools.wraps(inner)
            def wrapped(*args: Any, **kwargs: Any) -> Any:
                nonlocal count
                count += 1
                if count_file is not None:
                    count_file.write_text(str(count))
                if count == event:
                    os.kill(os.getpid(), signal.SIGKILL)
                return inner(*args, **kwargs)

            setattr(owner, name, wrapped)

        for owner, name in [
            (os, "fsync"), (os, "link"), (Path, "rename"), (Path, "replace"), (shutil, "rmtree"), (Path, "mkdir"),
            (Path, "unlink"), (Worker, "run_chunk"),
        ]:  # fmt: skip
            wrap(owner, name)

    return arm


def kill_at_event(trial: Trial) -> None:
    """Kill the driver at a file operation or a chunk, up to three times."""
    for _ in range(trial.rng.randint(1, 3)):
        die = dying_at(trial.rng.randint(1, trial.whole.events))
        command = (
            trial.start("run", "--resume", trial.run, before=die) if trial.run.exists() else trial.begin(before=die)
        )
        if command.wait().code != -signal.SIGKILL:
            break
    trial.finish()


def kill_at_time(trial: Trial) -> None:
    """Kill the driver at any moment."""
    command = trial.begin()
    time.sleep(trial.rng.uniform(0, 1.1) * trial.whole.seconds)
    command.send(signal.SIGKILL)
    command.wait()
    trial.finish()


def signalled(trial: Trial) -> None:
    """Send the driver a signal, or several."""
    command = trial.begin()
    for _ in range(trial.rng.randint(1, 3)):
        time.sleep(trial.rng.uniform(0, 0.6) * trial.whole.seconds)
        command.send(trial.rng.choice([signal.SIGTERM, signal.SIGHUP, signal.SIGINT]))
    ended = command.wait()
    trial.told = ended.code != 0
    trial.finish()


def full_disk(trial: Trial) -> None:
    """Let no file grow beyond a size: as on a disk that is full."""
    largest = max(path.stat().st_size for path in trial.whole.run.rglob("*") if path.is_file())
    limit = int(largest * trial.rng.random() ** 3)

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 2000), resource.RLIM_INFINITY))  # the log has to fit

    ended = trial.begin(before=starve).wait()
    trial.told = ended.code != 0
    trial.finish()


def flip(trial: Trial, run: Path) -> str:
    """Flip one bit of one file of a run, and return which."""
    files = sorted(
        path for path in run.rglob("*") if path.is_file() and path.stat().st_size and "plots" not in path.parts
    )
    file = trial.rng.choice(files)
    content = bytearray(file.read_bytes())
    content[trial.rng.randrange(len(content))] ^= 1 << trial.rng.randrange(8)
    file.unlink()  # it may be linked to from elsewhere
    file.write_bytes(content)
    return str(file.relative_to(run))


def flip_half(trial: Trial) -> None:
    """Flip one bit of a run that was left half-way."""
    shutil.copytree(trial.whole.half, trial.run)
    trial.notes.append(flip(trial, trial.run))
    trial.finish()


def flip_whole(trial: Trial) -> None:
    """Flip one bit of a finished run, and show, resume and unlearn it."""
    shutil.copytree(trial.whole.run, trial.run, ignore=shutil.ignore_patterns("unlearned"))
    trial.notes.append(flip(trial, trial.run))
    commands = {
        "show": ["show", trial.run], "privacy": ["privacy", trial.run],
        "report": ["report", trial.run, f"--out={trial.folder / 'r.html'}"],
        "unlearn": ["unlearn", trial.run, *FORGET],
    }  # fmt: skip
    shown = {}
    for name in trial.rng.sample(sorted(commands), 2):
        ended = trial.start(*map(str, commands[name])).wait()
        if ended.code != 0:
            trial.told = True
            trial.notes.append(ended.err.strip().replace(str(trial.folder), "..."))
        elif name == "unlearn":
            trial.compare(trial.run / "unlearned" / "forgotten", trial.forgotten(), ended)
        else:
            shown[name] = ended
    trial.finish()


def two_starts(trial: Trial) -> None:
    """Begin one run in two processes; one of the two may be told to replace it."""
    force = ["--force"] if trial.rng.random() < 0.5 else []
    first, second = trial.begin(), None
    time.sleep(trial.rng.uniform(0, 1.2) * trial.whole.seconds)
    second = trial.begin(*force)
    ended = [first.wait(), second.wait()]
    if ended[0].code != 0:
        raise Failed("lost", f"the first of two starts: {ended[0].err}")
    if ended[1].code == 2:
        trial.told = True
    elif ended[1].code != 0 or not force:
        raise Failed("lost", f"the second of two starts: {ended[1].code} {ended[1].err}")
    trial.compare(trial.run, trial.whole.run, ended[0])


def replaced(trial: Trial) -> None:
    """Resume or unlearn a run while others replace it, resume it, or unlearn it; some are killed."""
    shutil.copytree(trial.rng.choice([trial.whole.run, trial.whole.half]), trial.run)
    work = [
        lambda: trial.begin("--force"),
        lambda: trial.start("run", "--resume", trial.run),
        lambda: trial.start("unlearn", trial.run, *FORGET, "--force"),
        lambda: trial.start("report", trial.run),
    ]
    commands = []
    for _ in range(trial.rng.randint(2, 3)):
        commands.append(trial.rng.choice(work)())
        time.sleep(trial.rng.uniform(0, 0.3) * trial.whole.seconds)
    if trial.rng.random() < 0.5:
        trial.rng.choice(commands).send(signal.SIGKILL)
    trial.told = any(command.wait().code == 2 for command in commands)
    trial.finish(unlearned=trial.rng.random() < 0.2)


def two_unlearnings(trial: Trial) -> None:
    """Unlearn the same in two processes, without a name for the outcome; one of them may be killed."""
    shutil.copytree(trial.whole.run, trial.run, ignore=shutil.ignore_patterns("unlearned"))
    commands = [trial.start("unlearn", trial.run, *FORGET[:-1], "--quiet") for _ in range(2)]
    killed = trial.rng.random() < 0.5
    if killed:
        time.sleep(trial.rng.uniform(0, 1) * trial.whole.seconds)
        commands[0].send(signal.SIGKILL)
    ended = [command.wait() for command in commands]
    places = {Path(one.out.strip()) for one in ended if one.code == 0}
    if len(places) < (1 if killed else 2):
        raise Failed("lost", f"unlearnings in {places}: {[one.err for one in ended]}")
    for place in places:
        trial.compare(place, trial.forgotten(), ended[0])
    trial.finish(unlearned=killed)


def goes_away(trial: Trial) -> None:
    """Rename or remove the folder while the run goes on."""
    command = trial.begin()
    time.sleep(trial.rng.uniform(0.2, 1) * trial.whole.seconds)
    elsewhere = trial.folder / "elsewhere"
    with contextlib.suppress(FileNotFoundError):
        trial.run.rename(elsewhere)
    ended = command.wait()
    trial.told = ended.code != 0
    if elsewhere.exists():
        if trial.run.exists():
            raise Failed("lost", f"came back in part: {sorted(path.name for path in trial.run.iterdir())}")
        if trial.rng.random() < 0.5:
            shutil.rmtree(elsewhere)
        else:
            elsewhere.rename(trial.run)
    trial.finish()


# Ray: a cluster of this trial's own, in processes of its own ----------------------------------------------------------


def _descendants(pid: int) -> dict[int, str]:
    """Return {process: command line} of all that a process has begun, and what these have."""
    table: dict[int, tuple[int, str]] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            table[int(folder.name)] = (parent, words)
    found: dict[int, str] = {}
    wanted = {pid}
    while wanted:
        wanted = {child for child, (parent, _) in table.items() if parent in wanted and child not in found}
        found |= {child: table[child][1] for child in wanted}
    return found


def _ray_run(trial: Trial, *more: str) -> subprocess.Popen[str]:
    flags = [
        *trial.whole.flags,
        f"--out={trial.folder}",
        "--name=run",
        "--engine=ray",
        "--set=engine.num_workers=2",
        *more,
    ]
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "run", *flags, "--set=rounds=400", "--set=eval_every=400"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/", start_new_session=True,
    )  # fmt: skip


def _ray_ended(trial: Trial, process: subprocess.Popen[str]) -> int:
    try:
        _, err = process.communicate(timeout=_PATIENCE_S)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        raise Failed("lost", "the run on Ray hangs") from None
    lines = err.splitlines()
    if "Traceback" in err or len(lines) > 1 or (process.returncode and not lines):
        raise Failed("crash", f"{process.returncode}\n{err[-3000:]}")
    trial.told = process.returncode != 0
    trial.notes += lines
    return process.returncode


def _ray_finish(trial: Trial) -> None:
    """Bring it to its end in this process, and compare with what it comes to undisturbed."""
    ended = trial.start("run", "--resume", trial.run, "--set=engine.device=cpu").wait()
    if ended.code != 0:
        raise Failed("lost", ended.err)
    like = trial.whole.run.parent / "long"
    if not like.exists():
        flags = ["--rounds=400", "--set=eval_every=400", f"--out={like.parent}", "--name=long"]
        trial.start("run", *trial.whole.flags, *flags).wait()
    trial.compare(trial.run, like, ended)


def _strike(trial: Trial, pattern: str, again: int = 1) -> None:
    process = _ray_run(trial)
    deadline = time.monotonic() + 120
    while not _text(trial.run / "metrics.jsonl").count("\n") >= 2 and time.monotonic() < deadline:
        if process.poll() is not None:
            break
        time.sleep(0.05)
    for _ in range(again):
        victims = [pid for pid, words in _descendants(process.pid).items() if re.search(pattern, words)]
        if victims:
            with contextlib.suppress(ProcessLookupError):
                os.kill(trial.rng.choice(victims), signal.SIGKILL)
        time.sleep(trial.rng.uniform(0.1, 1))
    _ray_ended(trial, process)
    _ray_finish(trial)


def ray_worker(trial: Trial) -> None:
    """Kill workers of Ray."""
    _strike(trial, r"^ray::", trial.rng.randint(1, 6))


def ray_raylet(trial: Trial) -> None:
    """Kill the local raylet."""
    _strike(trial, r"/raylet/raylet ")


def ray_gcs(trial: Trial) -> None:
    """Kill Ray's head."""
    _strike(trial, r"/gcs/gcs_server ")


KINDS: dict[str, tuple[Callable[[Trial], None], float]] = {
    "kill_at_event": (kill_at_event, 4), "kill_at_time": (kill_at_time, 3), "signalled": (signalled, 2),
    "full_disk": (full_disk, 2), "flip_half": (flip_half, 3), "flip_whole": (flip_whole, 3),
    "two_starts": (two_starts, 2), "replaced": (replaced, 2), "two_unlearnings": (two_unlearnings, 1),
    "goes_away": (goes_away, 1), "ray_worker": (ray_worker, 0), "ray_raylet": (ray_raylet, 0), "ray_gcs": (ray_gcs, 0),
}  # fmt: skip
"""What is done, and how often; what takes longer is done when `--kinds` asks for it."""


# The campaign ---------------------------------------------------------------------------------------------------------


def prepare(out: Path, name: str) -> Whole:
    """Return the undisturbed run of a recipe, made when it is not there yet."""
    folder = out / "whole" / name
    flags = [*RECIPES[name], *SHARED]
    facts = folder / "facts.json"
    if not facts.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        blank = Whole(flags, folder / "run", folder / "half", 0, 0.0)
        trial = Trial(-1, folder, random.Random(0), blank)
        begun = time.perf_counter()
        assert trial.begin(before=dying_at(-1, folder / "count")).wait().code == 0
        seconds = time.perf_counter() - begun
        events = int((folder / "count").read_text())
        for event in range(1, events):  # killed right after the first checkpoint
            other = Trial(-1, folder / "halves", random.Random(0), blank)
            shutil.rmtree(other.folder, ignore_errors=True)
            other.folder.mkdir()
            other.begin(before=dying_at(events // 2 + event)).wait()
            if list(other.run.glob("checkpoints/round-*")) and not (other.run / "summary.json").exists():
                other.run.rename(blank.half)
                break
        facts.write_text(json.dumps({"events": events, "seconds": seconds}))
    return Whole(flags, folder / "run", folder / "half", **json.loads(facts.read_text()))


def try_once(number: int, seed: int, out: Path, kinds: list[str], recipes: list[str]) -> dict[str, Any]:
    """Return what became of one trial."""
    rng = random.Random(f"{seed} {number}")
    kind = rng.choices(kinds, [KINDS[name][1] or 1 for name in kinds])[0]
    recipe = rng.choice(recipes)
    whole = prepare(out, recipe)
    folder = Path(tempfile.mkdtemp(prefix=f"{number:06d}-", dir=out))
    trial = Trial(number, folder, rng, whole)
    begun = time.perf_counter()
    verdict, seen = "same", ""
    try:
        KINDS[kind][0](trial)
        verdict = "told" if trial.told else "same"
        left = sorted(path.name for path in folder.iterdir() if path.name.startswith("."))
        if left:
            verdict, seen = "lost", f"left behind: {left}"
    except Failed as failed:
        verdict, seen = failed.args
    if verdict not in BAD:
        shutil.rmtree(folder)
    seconds = round(time.perf_counter() - begun, 2)
    told = {"number": number, "kind": kind, "recipe": recipe, "verdict": verdict, "seconds": seconds}
    return told | {"notes": trial.notes, **({"seen": seen, "kept": str(folder)} if seen else {})}


def trials_of(file: Path) -> Iterator[dict[str, Any]]:
    """Yield the trials so far."""
    for line in _text(file).splitlines():
        with contextlib.suppress(ValueError):  # torn
            yield json.loads(line)


def table(trials: list[dict[str, Any]]) -> str:
    """Return how often each kind ended how."""
    verdicts = ("same", "told", *BAD)
    counts = Counter((trial["kind"], trial["verdict"]) for trial in trials)
    lines = [f"| {'kind':<16} | trials | " + " | ".join(verdicts) + " |", "| --- |" + " ---: |" * (len(verdicts) + 1)]
    for kind in [*dict.fromkeys(trial["kind"] for trial in trials), None]:
        row = [sum(n for (k, v), n in counts.items() if v == verdict and kind in (k, None)) for verdict in verdicts]
        lines.append(f"| {kind or 'all':<16} | {sum(row)} | " + " | ".join(map(str, row)) + " |")
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    """Run trials for some minutes; returns 1 if one of them ended badly."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--trials", type=int, default=10**9, help="stop after so many, those of earlier calls included")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path(tempfile.gettempdir()) / "fedsim-torture")
    parser.add_argument("--kinds", default=",".join(name for name, (_, weight) in KINDS.items() if weight))
    parser.add_argument("--recipes", default=",".join(RECIPES))
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    given.out.mkdir(parents=True, exist_ok=True)
    file = given.out / f"trials-{given.seed}.jsonl"
    done = list(trials_of(file))
    until = time.monotonic() + 60 * given.minutes
    with file.open("a", encoding="utf-8") as log:
        while time.monotonic() < until and len(done) < given.trials:
            number = max((trial["number"] for trial in done), default=-1) + 1
            done.append(try_once(number, given.seed, given.out, given.kinds.split(","), given.recipes.split(",")))
            log.write(json.dumps(done[-1]) + "\n")
            log.flush()
            if done[-1]["verdict"] in BAD:
                print(json.dumps(done[-1], indent=1), flush=True)
    print(table(done))
    return int(any(trial["verdict"] in BAD for trial in done))


if __name__ == "__main__":
    sys.exit(main())
