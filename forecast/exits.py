"""How a job ends, in words and in the exit code that a scheduler reads.

    0    every forecast is in the store
    2    refused or failed: the settings, the input or the place of the output; the message says what to do
    75   unfinished (EX_TEMPFAIL): stopped by a signal, or workers died; the same command with resume=true goes on
    130  interrupted from the keyboard

SIGTERM and SIGUSR1, which schedulers send before they kill, let the batch that runs come to its end; then a job ends with 75.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from forecast.forecaster import ForecastError

UNFINISHED = 75
STOPPING = (signal.SIGTERM, signal.SIGUSR1)


class UnfinishedError(ForecastError):
    """A job that ended before all forecasts were made, and can go on."""

    exit_code = UNFINISHED


class StopRequest:
    """Whether, and by which signal, a job was asked to stop."""

    def __init__(self) -> None:
        self._event = threading.Event()
        self.reason = ""

    def __bool__(self) -> bool:
        return self._event.is_set()

    def set(self, reason: str) -> None:
        """Ask to stop; the first reason stays."""
        self.reason = self.reason or reason
        self._event.set()


_listening: list[StopRequest] = []  # of the blocks that run, the outermost first


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    """Note SIGTERM and SIGUSR1 instead of dying of them while the block runs; only the main thread can.

    What stops a block stops the blocks around it, too.
    """
    request = StopRequest()

    def note(number: int, frame: FrameType | None) -> None:
        for one in _listening:
            one.set(signal.Signals(number).name)

    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.signal(number, note) for number in STOPPING}
    _listening.append(request)
    try:
        yield request
    finally:
        _listening.remove(request)
        for number, handler in before.items():
            signal.signal(number, handler)


def unfinished(reason: str, missing: int, forecasts: int) -> UnfinishedError:
    """Say what a job that stopped leaves to do."""
    return UnfinishedError(
        f"stopped ({reason}) with {missing} of {forecasts} forecasts still to make; what is complete is kept. Go on with the "
        "same command and resume=true."
    )
