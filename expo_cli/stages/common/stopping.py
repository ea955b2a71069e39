"""SIGTERM, SIGUSR1 and SIGUSR2 stop a stage at its next safe point, with exit code 75."""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from expo_cli.errors import Interrupted

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)


class StopRequest:
    """Whether a signal asked to stop; made by `stop_on_signal`."""

    def __init__(self) -> None:
        self.signal_name: str | None = None

    def check(self) -> None:
        """Raise Interrupted if a signal arrived. Call it when all finished work is on disk."""
        if self.signal_name:
            raise Interrupted(f"stopped by {self.signal_name}; run the same command to continue")


@contextmanager
def stop_on_signal() -> Iterator[StopRequest]:
    request = StopRequest()

    def remember(number: int, frame: FrameType | None) -> None:
        request.signal_name = signal.Signals(number).name

    previous = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield request
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
