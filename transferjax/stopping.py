"""Ctrl-C and SIGTERM end a run at its next step, with all that was done kept.

    with Stopping(grace=30) as stopping:
        … stopping.asked() …                    whoever works looks, keeps what there is, and raises Stopped

Where a Stopped leaves the block, the process ends at once: threads that still write would complain.

Python runs the handler of a signal between two instructions of its main thread, which may be minutes away in
a compiler. So a thread of its own hears the signal, and ends the process when the grace is over.
"""

import os
import signal
import socket
import sys
import threading
from contextlib import suppress
from types import TracebackType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SAID = "stopped; the same command continues"


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop; what was done is kept."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


class Stopping:
    """Hears the first signal, and obeys the second, or the end of the grace, at once.

    Args:
        grace: seconds from the first signal to the end of the process.
    """

    def __init__(self, grace: float) -> None:
        self.grace, self.signal = grace, 0

    def asked(self) -> bool:
        """Whether somebody asked to stop."""
        return self.signal != 0

    def __enter__(self) -> "Stopping":
        self._hears, self._wakes = socket.socketpair()
        self._wakes.setblocking(False)
        heard = [
            n for n in SIGNALS if signal.getsignal(n) not in (signal.SIG_IGN, None)
        ]  # others' are theirs
        self._before = {number: signal.signal(number, lambda *_: None) for number in heard}
        self._fd = signal.set_wakeup_fd(self._wakes.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._hear, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, place: TracebackType | None
    ) -> None:
        if isinstance(error, KeyboardInterrupt):
            self._leave()
        signal.set_wakeup_fd(self._fd)
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._wakes.close()  # which ends the thread

    def _hear(self) -> None:
        with self._hears:
            while heard := self._hears.recv(1):
                if heard[0] in SIGNALS and self.signal:
                    self._leave()
                elif heard[0] in SIGNALS:
                    timer = threading.Timer(self.grace, self._leave)
                    timer.daemon = True
                    timer.start()
                    with suppress(OSError):  # said before `asked` tells who works, and may leave at once
                        print(f"stops at the next step, within {self.grace:g} s", file=sys.stderr, flush=True)
                    self.signal = heard[0]

    def _leave(self) -> None:
        sys.stdout.flush()
        print(SAID, file=sys.stderr, flush=True)
        os._exit(128 + (self.signal or signal.SIGINT))  # as shells have it
