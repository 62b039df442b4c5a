"""Progress on stderr, and Ctrl-C that keeps what is done."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

Report = Callable[[str, int, int], None]
"""Called with (what is going on, how much of it is done, how much there is)."""

_STOPPING = b"\nmoesim: stopping after this step; press Ctrl-C again to stop at once\n"


@contextmanager
def progress_bar() -> Iterator[Report]:
    """Show progress on stderr while a person watches; stay silent otherwise."""
    if not sys.stderr.isatty():
        yield lambda name, done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    tasks: dict[str, Any] = {}
    with bar:

        def report(name: str, done: int, total: int) -> None:
            if name not in tasks:
                tasks[name] = bar.add_task(name, total=total)
            bar.update(tasks[name], completed=done)

        yield report


@contextmanager
def stoppable_progress() -> Iterator[Report]:
    """Show progress, and let the first Ctrl-C end the run after the step in progress.

    As long as nothing is done there is nothing to keep, and the run ends at once.
    """
    stop = _Stop()
    with progress_bar() as show:

        def report(name: str, done: int, total: int) -> None:
            show(name, done, total)
            stop.something_done = stop.something_done or done > 0
            if stop.asked:
                raise KeyboardInterrupt

        if threading.current_thread() is not threading.main_thread():
            yield report  # only the main thread hears of signals
            return
        before = signal.signal(signal.SIGINT, stop.handle)
        try:
            yield report
        finally:
            signal.signal(signal.SIGINT, before)


class _Stop:
    """What Ctrl-C does."""

    def __init__(self) -> None:
        self.asked = False
        self.something_done = False

    def handle(self, signum: int, frame: FrameType | None) -> None:
        """Note the wish, or interrupt at once."""
        if self.asked or not self.something_done:
            raise KeyboardInterrupt
        self.asked = True
        os.write(2, _STOPPING)  # a signal may come in the middle of a print: no buffers here
