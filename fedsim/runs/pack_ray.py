"""Executes runs on a Ray cluster: each run is a task that reserves CPUs and a share of a GPU on a node.

A node that shares a file system with this machine works in the sweep's folder. Any other node works in a temporary
folder, which is copied back at intervals and at the end.
"""

from __future__ import annotations

import contextlib
import dataclasses
import io
import os
import secrets
import tarfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from fedsim.config.run import EngineConfig
from fedsim.engine.ray import cluster
from fedsim.environment import code_sha256, versions
from fedsim.errors import ClusterLost, FedsimError
from fedsim.runs.pack import Board, RunJob, RunNews, RunProcess
from fedsim.runs.reserve import held, new_content
from fedsim.scratch import scratch_folder

_MARK = ".seen-by-nodes-"
_LOOK_EVERY_S = 0.5
_BRING_EVERY_S = 30.0
_PATIENCE_S = 60.0
"""Time after an interrupt in which runs can save their last rounds."""
_LOG = "its log"


class Share(NamedTuple):
    """The resources that a run reserves on a node."""

    cpus: float
    gpus: float


def share_of(engine: EngineConfig, has_gpus: bool) -> Share:
    """Return the resources for a run with these options; by default they include a GPU if the cluster has any."""
    processes = (engine.num_workers or 1) if engine.name == "local" else 1
    default = 1.0 if engine.device == "auto" and has_gpus else 0.0
    return Share(max(engine.cpus_per_worker, float(processes * engine.threads)), engine.gpus_per_worker or default)


class RayPacker:
    """Executes runs on a Ray cluster.

    Parameters
    ----------
    engines
        The engine options of each run, by run name.
    address
        Address of the cluster; None starts Ray on this machine.

    Raises
    ------
    FedsimError
        If Ray is missing or does not answer, no node is large enough for one of the runs, or a run would itself use
        the Ray engine.
    """

    def __init__(self, engines: Mapping[str, EngineConfig], address: str | None) -> None:
        if any(engine.name == "ray" for engine in engines.values()):
            raise FedsimError("engine.name: with --jobs ray each run is one Ray task, not many; leave engine.name out")
        cluster.connect(EngineConfig(name="ray", ray_address=address))
        has_gpus = any(node.get("GPU") for node in cluster.nodes())
        self._shares = {name: share_of(engine, has_gpus) for name, engine in engines.items()}
        self._retries = {name: engine.retries for name, engine in engines.items()}
        for share in set(self._shares.values()):
            if not _has_room(share):
                raise FedsimError(
                    f"--jobs ray: no node has the {share.cpus:g} CPUs and {share.gpus:g} GPUs that a run needs; lower "
                    "engine.threads or engine.gpus_per_worker"
                )

    def pack(self, jobs: Sequence[RunJob], board: Board) -> dict[str, str]:
        """Execute all runs, whose folders have one parent; return the reasons of failed runs, by name.

        If a node is lost, its runs are tried again, up to `engine.retries` times. They continue from the last copy, or
        from the last checkpoint in a shared folder. An interrupt stops all runs after their last rounds.
        """
        if not jobs:
            return {}
        with _marked(jobs[0].folder.parent) as mark:
            return _Packing(jobs, self._shares, self._retries, mark, board).run()


@contextlib.contextmanager
def _marked(folder: Path) -> Iterator[Path]:
    """Yield a marker file in a folder; a node that sees the marker shares this folder with this machine."""
    for left in folder.glob(f"{_MARK}*"):
        left.unlink()
    mark = folder.resolve() / f"{_MARK}{secrets.token_hex(8)}"
    mark.touch()
    try:
        yield mark
    finally:
        mark.unlink(missing_ok=True)


def _has_room(share: Share) -> bool:
    have = cluster.nodes()
    return any(node.get("CPU", 0.0) >= share.cpus and node.get("GPU", 0.0) >= share.gpus for node in have)


class _Packing:
    """The tasks of some jobs, from submission to end."""

    def __init__(
        self, jobs: Sequence[RunJob], shares: Mapping[str, Share], retries: Mapping[str, int], mark: Path, board: Board
    ) -> None:
        import ray

        self._ray, self._shares, self._left, self._mark, self._board = ray, shares, dict(retries), mark, board
        self._task = ray.remote(num_returns="streaming", max_retries=0)(_on_node)
        self._code = _code()
        self._failures: dict[str, str] = {}
        self._running = {self._submit(job): job for job in jobs}

    def run(self) -> dict[str, str]:
        """Receive messages until all tasks have ended; return the reasons of failed runs."""
        try:
            while self._running:
                self._listen()
                self._drop_those_without_room()
        except BaseException:
            self._stop()
            raise
        return self._failures

    def _submit(self, job: RunJob) -> Any:
        share = self._shares[job.name]
        told = dataclasses.replace(
            job, folder=job.folder.resolve(), log=job.log.resolve(), like=job.like and job.like.resolve()
        )
        before = _packed(job.folder, None) if job.folder.exists() else None
        options = {"num_cpus": share.cpus, "num_gpus": share.gpus, "name": f"fedsim-{job.name}"}
        threads = max(1, int(share.cpus))
        task = self._task.options(**options, runtime_env=cluster.runtime_env(threads))
        return task.remote(told, self._mark, self._code, before)

    def _listen(self) -> None:
        cluster.require_alive()
        ready, _ = self._ray.wait(list(self._running), num_returns=1, timeout=_LOOK_EVERY_S)
        for task in ready:
            job = self._running[task]
            try:
                kind, *what = self._ray.get(next(task))
            except StopIteration:
                self._end(task, None)
            except self._ray.exceptions.RayTaskError as error:
                cause = error.cause
                self._end(task, f"{type(cause).__name__}: {cause}" if cause else str(error).strip().splitlines()[-1])
            except self._ray.exceptions.RayError as error:
                cluster.require_alive()
                self._lost(task, error)
            else:
                if kind == "began":
                    self._board.began(job.name)
                elif kind == "round":
                    self._board.round_done(job.name, *what)
                elif kind == "folder":
                    _unpack(job, what[0])
                else:
                    self._end(task, what[0])

    def _end(self, task: Any, error: str | None) -> None:
        job = self._running.pop(task, None)
        if job is None:
            return
        if error is not None:
            self._failures[job.name] = error
        self._board.ended(job.name, error)

    def _lost(self, task: Any, error: Exception) -> None:
        """Try the run of a lost node again, from its last copy or checkpoint; fail it if no retry is left."""
        job = self._running[task]
        if not self._left[job.name]:
            self._end(task, f"its node was lost: {str(error).strip().splitlines()[0]}")
            return
        self._left[job.name] -= 1
        del self._running[task]
        self._running[self._submit(job)] = job

    def _drop_those_without_room(self) -> None:
        room = {share: _has_room(share) for share in {self._shares[job.name] for job in self._running.values()}}
        for task, job in list(self._running.items()):
            if not room[self._shares[job.name]]:
                self._end(task, "no remaining node is large enough for it")

    def _stop(self) -> None:
        """Cancel all tasks, and wait until they have saved their last rounds."""
        with contextlib.suppress(Exception):  # the exception that is being raised matters more
            for task in self._running:
                self._ray.cancel(task)
            deadline = time.monotonic() + _PATIENCE_S
            while self._running and time.monotonic() < deadline:
                with contextlib.suppress(ClusterLost):
                    self._left = dict.fromkeys(self._left, 0)
                    self._listen()


def _code() -> dict[str, str]:
    """Return the versions of code and packages on this machine."""
    return {"sources of fedsim": code_sha256(), **versions()}


# On a node ------------------------------------------------------------------------------------------------------------


def _on_node(job: RunJob, mark: Path, code: Mapping[str, str], before: bytes | None) -> Iterator[tuple[Any, ...]]:
    """Execute a run in its own process; yield messages (kind, ...) for the process that packs the runs."""
    here = _code()
    for name, value in code.items():
        if here.get(name) != value:
            yield (
                "ended",
                (
                    f"a node has another {name} ({here.get(name, 'none')[:12]}, not {value[:12]}); install the same "
                    "versions on every node"
                ),
            )
            return
    yield ("began",)
    shared = mark.is_file()
    if job.like is not None and not job.like.exists():  # it says which samples are deleted
        yield "ended", f"{job.like}: is not on the node; put it where all nodes see it"
        return
    work = job if shared else _moved(job, before)
    process, brought = RunProcess(work, os.environ.get("CUDA_VISIBLE_DEVICES")), time.monotonic()
    try:
        for news in _news_of(process):
            if news is not None:
                yield "round", *news
            if not shared and time.monotonic() - brought > _BRING_EVERY_S:
                with process.paused():
                    content = _packed(work.folder, work.log)
                yield "folder", content
                brought = time.monotonic()
    finally:
        process.stop()
        process.end()
    if not shared:
        yield "folder", _packed(work.folder, work.log)
    yield "ended", process.error


def _news_of(process: RunProcess) -> Iterator[RunNews | None]:
    """Yield the latest progress at intervals, or None if there is none, until the process has ended."""
    ended = False
    while not ended:
        newest: RunNews | None = None
        until = time.monotonic() + _LOOK_EVERY_S  # a message for every round would be too many
        while not ended and (left_s := until - time.monotonic()) > 0 and process.pipe.poll(left_s):
            news = process.news()
            ended = news is None
            if news is not None:
                newest = news._replace(metrics={**(newest.metrics if newest else {}), **news.metrics})
        yield newest


def _moved(job: RunJob, before: bytes | None) -> RunJob:
    """Return the job in a temporary folder of this node, which contains the run so far."""
    place = scratch_folder()
    moved = dataclasses.replace(job, folder=place / job.name, log=place / "logs" / job.log.name)
    if before is not None:
        _unpack(moved, before)
    return moved


# Both sides -----------------------------------------------------------------------------------------------------------


def _packed(folder: Path, log: Path | None) -> bytes:
    """Return a run's folder and its log as an archive."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        for path, name in ((folder, folder.name), (log, _LOG)):
            if path is not None and path.exists():
                archive.add(path, name)
    return out.getvalue()


def _unpack(job: RunJob, content: bytes) -> None:
    """Extract an archive to the folder and the log of a job."""
    job.log.parent.mkdir(parents=True, exist_ok=True)
    with held(job.folder), tarfile.open(fileobj=io.BytesIO(content)) as archive:
        members = archive.getmembers()
        inside = [member for member in members if member.name.partition("/")[0] == job.folder.name]
        if inside:
            with new_content(job.folder) as new:
                archive.extractall(new, members=_below(inside), filter="data")
        job.log.unlink(missing_ok=True)
        if log := [member for member in members if member.name == _LOG]:
            read = archive.extractfile(log[0])
            job.log.write_bytes(b"" if read is None else read.read())


def _below(members: Sequence[tarfile.TarInfo]) -> list[tarfile.TarInfo]:
    """Return the members inside the top folder, with paths relative to it."""
    inside = [member for member in members if "/" in member.name]
    return [member.replace(name=member.name.partition("/")[2], deep=False) for member in inside]
