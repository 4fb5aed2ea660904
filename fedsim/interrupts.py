"""Signals at the right moment: Ctrl-C, and what a cluster's scheduler sends before it kills."""

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
    """What was heard while signals were heeded."""

    ending: signal.Signals | None = None
    """The newest signal that ended the work."""
    at: float = -math.inf
    """When it came, by the clock that only goes forward."""


@contextmanager
def heeding_signals() -> Iterator[Heard]:
    """Have SIGTERM and SIGHUP end the block as Ctrl-C does, several at once as one; SIGUSR1 asks for a checkpoint.

    Those that somebody handles or ignores, as under `nohup`, are left as they are.
    """
    heard = Heard()
    if threading.current_thread() is not threading.main_thread():  # which alone hears them
        yield heard
        return

    def end(number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if now - heard.at < _AT_ONCE_S:  # of several at once the first ends the work, and its line is being written
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
    try:
        yield heard
    finally:
        for number, was in taken.items():
            signal.signal(number, was)


def checkpoint_wanted() -> bool:
    """Return whether somebody has asked for a checkpoint since the last call."""
    wanted = _checkpoint_wanted.is_set()
    _checkpoint_wanted.clear()
    return wanted


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Put signals that end the work off until the block is through."""
    if threading.current_thread() is not threading.main_thread():  # which alone is interrupted
        yield
        return
    came: list[int] = []
    # A signal that ends or stops the process outright, or that is ignored, is not ours to put off.
    caught = [number for number in _ENDING if callable(signal.getsignal(number))]
    before = {number: signal.signal(number, lambda number, frame: came.append(number)) for number in caught}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if came:
        signal.raise_signal(came[0])
