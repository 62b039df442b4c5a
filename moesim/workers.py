"""Work spread over processes: quiet workers, Ctrl-C handled by the parent, no process left behind."""

from __future__ import annotations

import multiprocessing
import signal
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, Final, TypeVar

from moesim.errors import InputError

Item = TypeVar("Item")
Done = TypeVar("Done")

_HEARTBEAT_S: Final = 0.2


class Workers:
    """Processes that have been prepared for one kind of work."""

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def each(
        self,
        work: Callable[[Item], Done],
        items: Sequence[Item],
        take: Callable[[int, Done], None],
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Do the work for every item.

        Args:
            work: a function of a module.
            items: what it is done for.
            take: called with the place of an item and what came of it, in any order.
            progress: called a few times a second with (items done, items in all).

        Raises:
            InputError: a worker died.
            Exception: what the work raised for the first item in order, after all are done.
        """
        with _interrupts_ignored():  # for the workers to inherit: Ctrl-C is the parent's to handle
            futures: dict[Future[Done], int] = {}
            for place, item in enumerate(items):
                futures[self._pool.submit(work, item)] = place
        waiting = set(futures)
        while waiting:
            finished, waiting = wait(waiting, timeout=_HEARTBEAT_S, return_when=FIRST_COMPLETED)
            for future in sorted(finished, key=futures.__getitem__):
                if future.exception() is None:
                    take(futures[future], future.result())
            if progress is not None:
                progress(len(futures) - len(waiting), len(futures))
        for future in futures:
            try:
                future.result()
            except BrokenProcessPool as error:
                message = "a worker process died, perhaps for want of memory"
                raise InputError(message, hint="use fewer workers") from error


@contextmanager
def workers(
    size: int, prepare: Callable[..., None] | None = None, given: tuple[Any, ...] = ()
) -> Iterator[Workers]:
    """Give fresh processes, which end at once when the block raises.

    Args:
        size: number of processes.
        prepare: called in each of them before any work.
        given: its arguments.
    """
    others = set(multiprocessing.active_children())
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(size, mp_context=context, initializer=_begin, initargs=(prepare, given))
    try:
        yield Workers(pool)
    except BaseException:
        for child in multiprocessing.active_children():
            if child not in others:
                child.terminate()
        raise
    finally:
        pool.shutdown(cancel_futures=True)


def _begin(prepare: Callable[..., None] | None, given: tuple[Any, ...]) -> None:
    """Make a worker quiet, and ready."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.simplefilter("ignore")
    if prepare is not None:
        prepare(*given)


@contextmanager
def _interrupts_ignored() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may change how signals are handled
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
