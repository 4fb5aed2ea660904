"""Disturbances on one machine, without Ray."""

from __future__ import annotations

import contextlib
import re
import resource
import shutil
import signal
import time
from pathlib import Path

from tortures.dying import dying_at
from tortures.trial import CHANGED, FORGET, MORE, Ended, Failed, Trial


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
    """Kill the driver at a random time."""
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
    """Limit the size of all files, as on a full disk."""
    largest = max(path.stat().st_size for path in trial.whole.run.rglob("*") if path.is_file())
    limit = int(largest * trial.rng.random() ** 3)

    def starve() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(limit, 2000), resource.RLIM_INFINITY))  # the log must fit

    ended = trial.begin(before=starve).wait()
    trial.told = ended.code != 0
    trial.finish()


def flip(trial: Trial, run: Path) -> None:
    """Flip one bit of one file of a run; each kind of file has the same probability, for any size and number."""
    kinds: dict[str, list[Path]] = {}
    for path in sorted(run.rglob("*")):
        if path.is_file() and path.stat().st_size:
            kinds.setdefault(re.sub(r"\d+", "N", str(path.relative_to(run))), []).append(path)
    file = trial.rng.choice(kinds[trial.rng.choice(sorted(kinds))])
    content = bytearray(file.read_bytes())
    content[trial.rng.randrange(len(content))] ^= 1 << trial.rng.randrange(8)
    file.unlink()  # other folders may have hard links to it
    file.write_bytes(content)
    trial.notes.append(str(file.relative_to(run)))


def _told(trial: Trial, ended: Ended) -> bool:
    """Record the error line, if there is one."""
    if ended.code != 0:
        trial.told = True
        trial.notes.append(ended.err.strip().replace(str(trial.folder), "..."))
    return ended.code != 0


def _flip_and_look(trial: Trial, *looks: list[str | Path]) -> None:
    """Flip one bit, and compare the output of reading commands before and after."""
    chosen = trial.rng.sample(looks, 2)
    before = [trial.start(*words).wait() for words in chosen]
    flip(trial, trial.run)
    for words, was in zip(chosen, before, strict=True):
        now = trial.start(*words).wait()
        said = "warning: " in now.err or CHANGED in now.out
        trial.told |= said
        if not _told(trial, now) and not said and now.out != was.out:
            raise Failed("silent", f"{words}: {was.out} and then {now.out}")


def flip_half(trial: Trial) -> None:
    """Flip one bit of an incomplete run."""
    shutil.copytree(trial.whole.half, trial.run)
    flip(trial, trial.run)
    trial.finish()


def flip_whole(trial: Trial) -> None:
    """Flip one bit of a finished run; show, unlearn and resume it."""
    shutil.copytree(trial.whole.run, trial.run, ignore=shutil.ignore_patterns("unlearned"))
    page = trial.folder / "r.html"
    _flip_and_look(
        trial, ["show", trial.run], ["privacy", trial.run], ["show", trial.run, "--all"],
        ["report", trial.run, f"--out={page}"],
    )  # fmt: skip
    if trial.rng.random() < 0.5:
        ended = trial.start("unlearn", trial.run, *FORGET).wait()
        if not _told(trial, ended):
            trial.compare(trial.run / "unlearned" / "forgotten", trial.forgotten(), ended)
    trial.finish()


def flip_unlearned(trial: Trial) -> None:
    """Flip one bit of a run that has forgotten a client, or of the outcome; look, verify, and forget another client."""
    more = trial.more()
    shutil.copytree(trial.whole.run, trial.run, ignore=shutil.ignore_patterns(more.name))
    forgotten = trial.run / "unlearned" / "forgotten"
    _flip_and_look(
        trial, ["show", trial.run], ["show", forgotten], ["privacy", forgotten], ["receipts", trial.run, "--verify"]
    )
    ended = trial.start("unlearn", trial.run, *MORE).wait()
    if not _told(trial, ended):
        trial.compare(trial.run / "unlearned" / more.name, more, ended)


def two_starts(trial: Trial) -> None:
    """Start one run in two processes; one of them may be told to replace the other's."""
    force = ["--force"] if trial.rng.random() < 0.5 else []
    first, second = trial.begin(), None
    time.sleep(trial.rng.uniform(0, 1.2) * trial.whole.seconds)
    second = trial.begin(*force)
    ended = [first.wait(), second.wait()]
    if ended[0].code == 2 and ended[1].code == 0:  # the second process was faster
        ended.reverse()
    if ended[0].code != 0:
        raise Failed("lost", f"the first of two starts: {ended[0].err}")
    if ended[1].code == 2:
        trial.told = True
    elif ended[1].code != 0 or not force:
        raise Failed("lost", f"the second of two starts: {ended[1].code} {ended[1].err}")
    trial.compare(trial.run, trial.whole.run, ended[0])


def replaced(trial: Trial) -> None:
    """Resume or unlearn a run while others replace, resume or unlearn it; some are killed."""
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
    codes = [command.wait().code for command in commands]
    trial.told = 2 in codes
    trial.finish(unlearned=trial.rng.random() < 0.2)


def two_unlearnings(trial: Trial) -> None:
    """Run the same unlearning in two processes, without a name for the outcome; one of them may be killed."""
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
    """Rename or remove the folder during the run."""
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
