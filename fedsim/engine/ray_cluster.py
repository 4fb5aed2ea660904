"""The connection of this process to Ray, which is kept for the next run, and the pool of actors in it."""

from __future__ import annotations

import atexit
import contextlib
import io
import itertools
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from fedsim.config.run import EngineConfig
from fedsim.engine.vigil import Vigil, processes
from fedsim.errors import ClusterLost, FedsimError
from fedsim.scratch import scratch_folder

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about CUDA_VISIBLE_DEVICES
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")  # our replies tell so
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # else its core tells users of what we tell them in one line

_AGENT = "an agent of this machine's raylet"
_sessions: list[Path] = []
"""Folders of Ray's own, with its logs and sockets."""


def _remove_sessions() -> None:
    while _sessions:
        shutil.rmtree(_sessions.pop(), ignore_errors=True)


atexit.register(_remove_sessions)  # before Ray is imported, so that it is shut down before

if TYPE_CHECKING:
    import ray
else:
    try:
        import ray
    except ImportError:
        ray = None


_PATIENCE_SECONDS = 10


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
            if kept != size:  # of no use, and in the way
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
        """Prepare for the end of Ray: stop watching it, and remove a lost one, for which this process would wait."""
        if self.is_lost:
            _remove_sessions()
        if self._vigil is not None:
            self._vigil.close()

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
            self.dashboard = _start(options)
            self._started = options
        elif self._session != _session():
            self._started = None  # the caller's own Ray
        if self._session != _session():
            self._session, self._idle, self._leases = _session(), [], []
            if self._vigil is not None:
                self._vigil.close()
            self._vigil = _watch()

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


def _watch() -> Vigil:
    """Watch Ray's essential processes: this node's raylet with its agents, and Ray's head on any node.

    A raylet ends itself when one of its agents has died, and Ray then ends this process within 0.1 s, without a line.
    So a Ray that was started here is halted at once, until this process has reported the loss.
    """
    node = ray._private.worker._global_node
    raylet, session = str(node.raylet_socket_name), Path(node.get_session_dir_path()).name
    found: dict[int, str] = {}
    there = processes()
    for pid, (_, words) in there.items():
        if "/raylet/raylet\0" in words and f"={raylet}\0" in words:
            found[pid] = "the raylet of this machine"
        elif "/gcs/gcs_server\0" in words and session in words:
            found[pid] = "Ray's head"
    raylets = [pid for pid, name in found.items() if "raylet" in name]
    agents = [pid for pid, (parent, words) in there.items() if parent in raylets and "agent" in words.lower()]
    found |= dict.fromkeys(agents, _AGENT)
    host, _, port = str(ray.get_runtime_context().gcs_address).rpartition(":")
    elsewhere = None if "Ray's head" in found.values() else (host, int(port), "Ray's head")
    return Vigil(found, elsewhere, halt=None if elsewhere else _AGENT)


def _session() -> str:
    if not ray.is_initialized():
        return ""
    context = ray.get_runtime_context()
    return f"{context.gcs_address} {context.get_job_id()}"


def _serves(started: EngineConfig, options: EngineConfig) -> bool:
    """Return whether a Ray that was started with the options `started` also suits `options`."""
    dashboard = not options.dashboard or (started.dashboard and started.dashboard_port == options.dashboard_port)
    return started.ray_address == options.ray_address and (
        options.ray_address is not None or (dashboard and _cpus(options) <= ray.cluster_resources().get("CPU", 0.0))
    )


def _cpus(options: EngineConfig) -> int:
    return math.ceil((options.num_workers or 1) * options.cpus_per_worker)


def _start(options: EngineConfig) -> str:
    """Start or join Ray; return the address of its dashboard, or "" without a dashboard."""
    more: dict[str, Any] = {}
    if options.ray_address is None:
        if options.dashboard:
            _require_free_port(options.dashboard_port)
            more = {"dashboard_host": "127.0.0.1", "dashboard_port": options.dashboard_port}
        more["include_dashboard"] = options.dashboard
        if _cpus(options) > len(os.sched_getaffinity(0)):  # more than there are: as asked
            more["num_cpus"] = _cpus(options)
        # Ray would leave its session in /tmp/ray, for all to write to. Its sockets have to have short names.
        _sessions.append(scratch_folder(Path("/tmp"), at_exit=False))
        more["_temp_dir"] = str(_sessions[-1])
    else:
        _require_reachable(options.ray_address)
    said = io.StringIO()
    try:
        with (
            _from_nowhere(),
            _hushed(said),
            _on_loopback() if options.ray_address is None else contextlib.nullcontext(),
        ):
            context = ray.init(
                address=options.ray_address or "local", log_to_driver=False, logging_level="ERROR", **more
            )
        # Where a node is lost, Ray would print pages of its own state over the run's output; its logs have them.
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None
        if options.ray_address is None:  # Ray makes the token that guards it, and lets everybody read it
            with contextlib.suppress(OSError):
                (Path.home() / ".ray" / "auth_token").chmod(0o600)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        if "Unauthenticated" in said.getvalue() or "InvalidAuthToken" in str(error):
            raise FedsimError(
                f"engine.ray_address: {options.ray_address} wants a token: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN "
                "to what `ray get-auth-token` prints on its head"
            ) from None
        where = f"engine.ray_address: {options.ray_address} cannot be joined" if options.ray_address else "engine: Ray"
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise FedsimError(f"{where} ({reason})") from None
    return str(context.dashboard_url or "")


@contextlib.contextmanager
def _from_nowhere() -> Iterator[None]:
    """Start Ray in a folder without modules, because its workers first import modules from the folder of the start.

    Ray replaces the handler of SIGTERM; it is restored.
    """
    before, in_main_thread = Path.cwd(), threading.current_thread() is threading.main_thread()
    handler = signal.getsignal(signal.SIGTERM)
    os.chdir("/")
    try:
        yield
    finally:
        os.chdir(before)
        if in_main_thread and handler is not None:
            signal.signal(signal.SIGTERM, handler)


@contextlib.contextmanager
def _on_loopback() -> Iterator[None]:
    """Make all processes of Ray, including its metrics, listen on 127.0.0.1 only."""
    from ray._private import ray_constants

    before = ray_constants.ENABLE_RAY_CLUSTER
    ray_constants.ENABLE_RAY_CLUSTER = False
    try:
        yield
    finally:
        ray_constants.ENABLE_RAY_CLUSTER = before


@contextlib.contextmanager
def _hushed(said: io.StringIO) -> Iterator[None]:
    """Hold back what libraries write to standard error, such as a line per second for a refused connection."""
    sys.stderr.flush()
    real = os.dup(2)
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(real, 2)
            os.close(real)
            file.seek(0)
            said.write(file.read().decode(errors="replace"))


def _require_reachable(address: str) -> None:
    """Refuse an address at which nothing listens; Ray itself would retry for many minutes."""
    if address == "auto":  # Ray looks for a cluster on this machine, and says at once when there is none
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=_PATIENCE_SECONDS).close()
    except (OSError, OverflowError, ValueError):
        raise FedsimError(
            f"engine.ray_address: no Ray cluster answers at {address!r}; must be auto, or HOST:PORT as `ray start "
            "--head` prints it"
        ) from None


def _require_free_port(port: int) -> None:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise FedsimError(f"engine.dashboard_port: port {port} on 127.0.0.1 is in use; choose another") from None
