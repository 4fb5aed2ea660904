"""Starts a local Ray or joins one: without output, on 127.0.0.1 only, and with one line for an error."""

from __future__ import annotations

import atexit
import contextlib
import io
import math
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedsim.config.run import EngineConfig
from fedsim.errors import FedsimError
from fedsim.scratch import scratch_folder

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # silences a warning about CUDA_VISIBLE_DEVICES
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", "^A worker died or was killed")  # our error replies report that
os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")  # Ray would report in many lines what we report in one
os.environ.setdefault("RAY_worker_niceness", "0")  # with Ray's 15, workers get no time beside busy programs

_sessions: list[Path] = []
"""Ray's own folders, with its logs and sockets."""


def remove_sessions() -> None:
    """Remove the files that Ray has left in its temporary folders."""
    while _sessions:
        shutil.rmtree(_sessions.pop(), ignore_errors=True)


atexit.register(remove_sessions)  # registered before Ray is imported, so that Ray shuts down first

if TYPE_CHECKING:
    import ray as ray  # for the other files of the engine, too
else:
    try:
        import ray
    except ImportError:
        ray = None


_PATIENCE_SECONDS = 10


def cpus_of(options: EngineConfig) -> int:
    """Return the number of CPUs that a local Ray needs for these options."""
    return math.ceil((options.num_workers or 1) * options.cpus_per_worker)


def start(options: EngineConfig) -> str:
    """Start or join Ray; return the address of its dashboard, or "" without a dashboard."""
    more: dict[str, Any] = {}
    if options.ray_address is None:
        if options.dashboard:
            _require_free_port(options.dashboard_port)
            more = {"dashboard_host": "127.0.0.1", "dashboard_port": options.dashboard_port}
        more["include_dashboard"] = options.dashboard
        if cpus_of(options) > len(os.sched_getaffinity(0)):  # more than there are cores: as configured
            more["num_cpus"] = cpus_of(options)
        # Ray would put its session into /tmp/ray, writable for all. The names of its sockets must be short.
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
        # When a node is lost, Ray would print pages of its own state into the run's output; its logs have them.
        ray._private.worker.print_to_stdstream = lambda *args, **kwargs: None
        if options.ray_address is None:  # Ray makes the token that protects it, and lets everybody read it
            with contextlib.suppress(OSError):
                (Path.home() / ".ray" / "auth_token").chmod(0o600)
    except (ConnectionError, OSError, RuntimeError, ValueError) as error:
        if "Unauthenticated" in said.getvalue() or "InvalidAuthToken" in str(error):
            raise FedsimError(
                f"engine.ray_address: {options.ray_address} requires a token: set RAY_AUTH_MODE=token, and "
                "RAY_AUTH_TOKEN to what `ray get-auth-token` prints on its head"
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
