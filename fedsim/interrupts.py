"""Signals: Ctrl-C, and those that a cluster's scheduler sends before it kills a process."""

import math
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_AT_ONCE_S = 1.0
_checkpoint_wanted = threading.Event()


class Heard:
    """The signals that were received in the block."""

    ending: signal.Signals | None = None
    """The newest signal that ended the work."""
    at: float = -math.inf
    """When it was received, in seconds of the monotonic clock."""


_listening: list[Heard] = []


@contextmanager
def heeding_signals() -> Iterator[Heard]:
    """Let SIGTERM and SIGHUP end the block as Ctrl-C does; SIGUSR1 requests a checkpoint.

    Several signals within a second count as one. Signals that the caller handles or ignores, as under `nohup`, are not
    changed.
    """
    heard = Heard()
    if threading.current_thread() is not threading.main_thread():  # only the main thread receives signals
        yield heard
        return

    def end(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - heard.at < _AT_ONCE_S:  # the first signal is already ending the work and writing its line
            return
        heard.ending, heard.at = signal.Signals(number), now
        raise KeyboardInterrupt

    def want_checkpoint(number: int, frame: FrameType | None) -> None:
        _checkpoint_wanted.set()

    handlers = {**dict.fromkeys(_ENDING, end), signal.SIGUSR1: want_checkpoint}
    usual = {number: signal.getsignal(number) for number in handlers}
    taken = {n: was for n, was in usual.items() if was in (signal.SIG_DFL, signal.default_int_handler)}
    for number in taken:
        signal.signal(number, handlers[number])
    _listening.append(heard)
    try:
        yield heard
    finally:
        _listening.remove(heard)
        for number, was in taken.items():
            signal.signal(number, was)


def end_if_heard() -> None:
    """Raise KeyboardInterrupt if a signal has ended the work, and the exception was lost.

    Libraries that are not written in Python may drop exceptions of the Python functions that they call: pydantic does
    when it serialises a union, and goes on with a warning. Call this in normal work, not in code that cleans up.
    """
    if any(heard.ending is not None for heard in _listening):
        raise KeyboardInterrupt


def checkpoint_wanted() -> bool:
    """Return whether a checkpoint was requested since the last call."""
    wanted = _checkpoint_wanted.is_set()
    _checkpoint_wanted.clear()
    return wanted


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Delay signals that end the work until the end of the block."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread is interrupted
        yield
        return
    came: list[int] = []
    # Signals that end or stop the process directly, or that are ignored, are not delayed.
    caught = [number for number in _ENDING if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
