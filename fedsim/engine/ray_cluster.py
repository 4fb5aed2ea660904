"""The connection of this process to Ray, which is kept for the next run, and the pool of actors in it."""

from __future__ import annotations

import itertools
import math
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from fedsim.config.run import EngineConfig
from fedsim.engine.last_words import LastWords
from fedsim.engine.ray_start import cpus_of, ray, remove_sessions, start
from fedsim.engine.vigil import Vigil, processes
from fedsim.errors import ClusterLost, FedsimError

ENDED = "engine: this process was killed, or Ray has died and ended it"
_HEAD = "Ray's head"


class ActorSize(NamedTuple):
    """The resources of an actor; actors of one size serve any run."""

    cpus: float
    gpus: float
    threads: int


@dataclass(eq=False)
class Lease:
    """The actors of one engine; it removes dead actors, and may replace them."""

    size: ActorSize
    count: int
    """Number of actors for which there is room."""
    actors: list[Any]


class Cluster:
    """Leases actors to engines. Actors are generic processes that receive a run's worker, so later runs reuse them."""

    def __init__(self, actor_class: type) -> None:
        self._actor_class = actor_class
        self._started: EngineConfig | None = None
        """The options with which Ray was started, if this process started it."""
        self._session = ""
        self._idle: list[tuple[ActorSize, Any]] = []
        self._leases: list[Lease] = []
        self._numbers = itertools.count()
        self._vigil: Vigil | None = None
        self._last_words: LastWords | None = None
        self.dashboard = ""
        """Address of the dashboard, if there is one."""

    def lease(self, options: EngineConfig) -> Lease:
        """Return the number of actors that the options ask for; the caller must give them back.

        Raises
        ------
        FedsimError
            If Ray is not available, or has no room for them.
        """
        self.connect(options)
        size = ActorSize(options.cpus_per_worker, options.gpus_per_worker, options.threads)
        count = self._fitting(size, options.num_workers)
        actors = [actor for kept, actor in self._idle if kept == size][:count]
        for kept, actor in self._idle:
            if kept != size:  # not useful for this lease, and they use resources
                ray.kill(actor)
        self._idle = [(kept, actor) for kept, actor in self._idle if kept == size and actor not in actors]
        lease = Lease(size, count, actors)
        self._leases.append(lease)
        self.fill(lease)
        return lease

    def fill(self, lease: Lease) -> list[Any]:
        """Replace removed actors, as far as the remaining nodes have room; return the new actors.

        Raises
        ------
        ClusterLost
            If no remaining node has room for an actor.
        """
        self.require_alive()
        others = [other for other in self._leases if other is not lease]
        room = _room(lease.size, others)
        new = [self._spawn(lease.size) for _ in range(min(lease.count, room) - len(lease.actors))]
        lease.actors += new
        if not lease.actors:
            raise ClusterLost("engine: Ray has no node left that has room for a worker")
        return new

    def room(self, lease: Lease) -> int:
        """Return the number of a lease's actors for which the remaining nodes have room."""
        return _room(lease.size, [other for other in self._leases if other is not lease])

    def require_alive(self) -> None:
        """Check that Ray's essential processes live; a call to a broken Ray would end this process.

        Raises
        ------
        ClusterLost
            If one of them has died.
        """
        if self._vigil is not None and self._vigil.lost:
            raise ClusterLost(f"engine: {self._vigil.lost} has died, and Ray with it")

    @property
    def is_lost(self) -> bool:
        """Whether `require_alive` would raise."""
        return self._vigil is not None and bool(self._vigil.lost)

    def leave(self) -> None:
        """Prepare for the end of Ray: stop watching it, and remove a lost one, which this process would wait for."""
        if self.is_lost:
            remove_sessions()
        self._watch_no_more()

    def _watch_no_more(self) -> None:
        if self._vigil is not None:
            self._vigil.close()
        if self._last_words is not None:
            self._last_words.close()
            self._last_words = None

    def last_words(self, text: str) -> None:
        """Print `text` as an error if this process ends without an error line of its own; Ray's core may end it."""
        if self._last_words is not None:
            self._last_words.are(text)

    def _shut_down(self) -> None:
        self.leave()
        ray.shutdown()

    def runtime_env(self, threads: int) -> dict[str, Any]:
        """Return Ray's runtime environment for a process with this number of threads."""
        variables = {f"{library}_NUM_THREADS": str(threads) for library in ("OMP", "MKL", "OPENBLAS")}
        if self._started is not None and self._started.ray_address is None:
            # On this machine, let it import what this process does, from the same places in the same order.
            variables["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path)
        return {"env_vars": variables}

    def nodes(self) -> list[Mapping[str, float]]:
        """Return the resources of each live node, such as CPU and GPU."""
        return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]

    def _spawn(self, size: ActorSize) -> Any:
        return (
            ray.remote(self._actor_class)
            .options(
                name=f"fedsim-{os.getpid()}-{next(self._numbers)}",
                num_cpus=size.cpus,
                num_gpus=size.gpus,
                runtime_env=self.runtime_env(size.threads),
            )
            .remote()
        )

    def give_back(self, lease: Lease) -> None:
        """Take the actors back, without their workers; do nothing if that was done, or Ray was shut down meanwhile."""
        if self.is_lost:
            self._leases, self._idle, self._session = [], [], ""
        elif lease in self._leases and self._session == _session():
            self._leases.remove(lease)
            for actor in lease.actors:
                actor.release.remote()
                self._idle.append((lease.size, actor))
        lease.actors = []
        if not self._leases:
            self.last_words("")

    def connect(self, options: EngineConfig) -> None:
        """Start or join Ray as the options say; a suitable connection is kept.

        Raises
        ------
        FedsimError
            If Ray is not available.
        """
        if ray is None:
            raise FedsimError("engine.name: ray is not installed; install it with: pip install 'ray[default]'")
        if self.is_lost:
            self._shut_down()
        ours = self._started if ray.is_initialized() and self._session == _session() else None
        if ours and not _serves(ours, options):
            if self._leases:
                raise FedsimError("engine: another run of this process holds Ray with other options; let it end first")
            self._shut_down()
        if not ray.is_initialized():
            self.dashboard = start(options)
            self._started = options
        elif self._session != _session():
            self._started = None  # the caller's own Ray
        if self._session != _session():
            self._session, self._idle, self._leases = _session(), [], []
            self._watch_no_more()
            local = self._started is not None and self._started.ray_address is None
            self._vigil, self._last_words = _watch(ours=local), LastWords()
        self.last_words(ENDED)

    def _fitting(self, size: ActorSize, wanted: int | None) -> int:
        """Return the number of actors: the requested one, or as many as there is room for."""
        cpus, gpus = _free(self._leases)
        room = _room(size, self._leases)
        count = wanted or room
        if not 1 <= count <= room:
            raise FedsimError(
                f"engine.num_workers: Ray has {cpus:g} CPUs and {gpus:g} GPUs free, too few for {count or 1} workers "
                f"of {size.cpus:g} CPUs and {size.gpus:g} GPUs; lower num_workers, cpus_per_worker or gpus_per_worker"
            )
        return count


def _free(leases: list[Lease]) -> tuple[float, float]:
    """Return the CPUs and GPUs of the live nodes that no lease has reserved."""
    total = ray.cluster_resources()
    cpus, gpus = (
        total.get(kind, 0.0) - sum(lease.count * getattr(lease.size, name) for lease in leases)
        for kind, name in (("CPU", "cpus"), ("GPU", "gpus"))
    )
    return cpus, gpus


def _room(size: ActorSize, leases: list[Lease]) -> int:
    cpus, gpus = _free(leases)
    room = math.floor(cpus / size.cpus + 1e-9)
    return min(room, math.floor(gpus / size.gpus + 1e-9)) if size.gpus else room


def _watch(*, ours: bool) -> Vigil:
    """Watch Ray's essential processes: this node's raylet with its agents, and Ray's head on any node.

    A raylet ends itself when one of its agents has died. Ray's core ends this process when the head reports that its
    raylet is gone, usually within 0.1 s. Therefore a head that this process started is killed first (`ours`).
    """
    node = ray._private.worker._global_node
    raylet, session = str(node.raylet_socket_name), Path(node.get_session_dir_path()).name
    there = processes()
    raylets = [pid for pid, (_, words) in there.items() if "/raylet/raylet\0" in words and f"={raylet}\0" in words]
    agents = [pid for pid, (parent, words) in there.items() if parent in raylets and "agent" in words.lower()]
    heads = [pid for pid, (_, words) in there.items() if "/gcs/gcs_server\0" in words and session in words]
    found = dict.fromkeys(agents, "an agent of this machine's raylet")
    found |= dict.fromkeys(raylets, "the raylet of this machine")
    found |= dict.fromkeys(heads, _HEAD)
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    return Vigil(found, None if heads else (host, int(port), _HEAD), heads[0] if heads and ours else None)


def _session() -> str:
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    return f"{context.gcs_address} {context.get_job_id()}"


def _serves(started: EngineConfig, options: EngineConfig) -> bool:
    """Return whether a Ray that was started with the options `started` also suits `options`."""
    dashboard = not options.dashboard or (started.dashboard and started.dashboard_port == options.dashboard_port)
    return started.ray_address == options.ray_address and (
        options.ray_address is not None or (dashboard and cpus_of(options) <= ray.cluster_resources().get("CPU", 0.0))
    )
