"""How long copies of weights take over host links and drives, for one engine and for a chain of stages.

The model. A copy is cut into chunks. An engine (one per link and direction) moves one chunk at a time at
the link's rate and never breaks one off: what is under way ends before something more urgent begins.
Setting a copy up costs ``start``, which passes while the engine still moves what came before; so it shows
once per copy on an idle engine, and two chunks never begin closer together than that. The last byte
arrives ``latency`` after it was sent.

* a copy alone takes ``start + bytes / rate + latency``;
* small copies behind each other follow at intervals of ``start``, large ones at the rate of the link;
* a demand waits for at most one chunk of a prefetch, beside its own start.

Over several stages (drive, host memory, device) a chunk enters the next one when it has arrived, so the
slowest stage counts and not the sum of all.

That copies under way cannot be cancelled, and that chunks bound what this costs, is said by HOBBIT (arXiv
2411.01433, section 3.3) and ProMoE (arXiv 2410.22134, section 5.1); that opposite directions are
independent by MoE-Lightning. How close it comes stands in docs/cost-models.md: within 13 % (median 5 %) of
large copies on machines that the catalogue does not rest on, between 51 % too fast and 18 % too slow
below a megabyte, 81 % too fast for synchronous calls through a whole software stack.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError

FloatArray = npt.NDArray[np.float64]

DEFAULT_CHUNK = 4 * 2**20
"""Bytes of a chunk. On every catalogued link 4 MiB take longer than setting a copy up (11 us over
NVLink-C2C, 167 us over PCIe 4, 0.7 ms from a drive), so that cutting costs nothing, and it is far less than
most experts, so that a demand hardly waits. The driver's own buffer for pageable copies was about that
size when last measured (NVIDIA developer forum 188328)."""


@dataclass(frozen=True)
class Stage:
    """One link in one direction, as copies see it.

    Attributes:
        rate: what transfers reach (B/s).
        start: cost of setting one copy up (s).
        latency: time from the last byte sent to its arrival (s).
        name: what it is called in messages.
    """

    rate: float
    start: float = 0.0
    latency: float = 0.0
    name: str = "link"

    def __post_init__(self) -> None:
        if not (np.isfinite(self.rate) and self.rate > 0):
            message = f"'{self.name}' needs a rate above zero, got {self.rate!r} B/s"
            raise InputError(message)
        for key, value in (("start", self.start), ("latency", self.latency)):
            if not (np.isfinite(value) and value >= 0):
                message = f"'{self.name}' needs a {key} of zero or more seconds, got {value!r}"
                raise InputError(message)


def check_chunk(chunk: float) -> float:
    """Return the size of a chunk.

    Raises:
        InputError: it is not above zero.
    """
    if isinstance(chunk, bool) or not (np.isfinite(chunk) and chunk > 0):
        message = f"'chunk' must be above 0 bytes, got {chunk!r}"
        raise InputError(message, hint=f"the default is {DEFAULT_CHUNK}")
    return float(chunk)


def check_sizes(size: npt.ArrayLike) -> FloatArray:
    """Return sizes of copies [...] (bytes).

    Raises:
        InputError: one is negative or not finite.
    """
    sizes = np.asarray(size, dtype=np.float64)
    if not (np.isfinite(sizes) & (sizes >= 0)).all():
        worst = float(sizes[~(np.isfinite(sizes) & (sizes >= 0))].flat[0])
        message = f"'bytes' of a copy must be zero or more, got {worst!r}"
        raise InputError(message)
    return sizes


def cut(sizes: FloatArray, chunk: float) -> tuple[FloatArray, FloatArray]:
    """Cut copies [...]: how many full chunks come before the last one, and how many bytes the last has."""
    full = np.maximum(np.ceil(sizes / chunk) - 1.0, 0.0)
    last = np.clip(sizes - full * chunk, 0.0, chunk)
    return full, last


def copy_seconds(size: npt.ArrayLike, stages: Sequence[Stage], chunk: float = DEFAULT_CHUNK) -> FloatArray:
    """Return how long copies take on idle stages, from being asked for to the last byte's arrival.

    Exact for the model: the chunks' way through the stages is a flow shop of equal jobs and one smaller
    last job, whose end is the longest way through (jobs, stages).

    Args:
        size: bytes of each copy [...].
        stages: the links in order, at least one.
        chunk: bytes of a chunk.

    Returns:
        Seconds [...]; zero for zero bytes.

    Raises:
        InputError: a negative size, a chunk of zero, or no stage.
    """
    if not stages:
        message = "a copy needs at least one stage"
        raise InputError(message)
    sizes, chunk = check_sizes(size), check_chunk(chunk)
    full, last = cut(sizes, chunk)
    # begin: when the last chunk may begin at a stage. first: when the first full chunk begins there. A way to
    # the last chunk stays at one stage for all full chunks; slowest is the longest of these so far.
    begin = np.full(sizes.shape, stages[0].start)
    first, slowest = stages[0].start, 0.0
    for number, stage in enumerate(stages):
        if number:
            before = stages[number - 1]
            begin = begin + last / before.rate + before.latency + stage.start
            first += chunk / before.rate + before.latency + stage.start
        step = max(chunk / stage.rate, stage.start)
        slowest = max(slowest, step)
        ahead = first + (full - 1.0) * slowest + step
        begin = np.where(full > 0, np.maximum(begin, ahead), begin)
    end = stages[-1]
    return np.where(sizes > 0, begin + last / end.rate + end.latency, 0.0)


def copy_schedule(
    submit: npt.ArrayLike,
    size: npt.ArrayLike,
    stage: Stage,
    urgent: npt.ArrayLike | None = None,
    chunk: float = DEFAULT_CHUNK,
) -> tuple[FloatArray, FloatArray]:
    """Return when copies on one engine begin and arrive.

    Args:
        submit: when each copy is asked for [copies] (s).
        size: bytes of each [copies].
        stage: the engine.
        urgent: whether each is a demand, which goes before every prefetch, bool [copies]; or any whole
            number, the larger the more urgent. All alike when None.
        chunk: bytes of a chunk.

    Returns:
        When the first byte of each copy moves, and when its last byte has arrived, [copies] each (s). Copies
        of equal urgency keep the order of asking (then of the arguments). A copy of zero bytes arrives when
        it is asked for.

    Raises:
        InputError: sizes, times or lengths that do not fit.
    """
    from moesim.hardware.copy_queue import CopyQueue

    when, sizes = np.asarray(submit, dtype=np.float64), check_sizes(size)
    if when.ndim != 1 or when.shape != sizes.shape or not np.isfinite(when).all():
        message = "'submit' and 'bytes' of copies must be lists of equal length, times finite"
        raise InputError(message)
    level = np.zeros(when.size, dtype=np.int64) if urgent is None else np.asarray(urgent).astype(np.int64)
    if level.shape != when.shape:
        message = "'urgent' must have one entry per copy"
        raise InputError(message)
    chunk = check_chunk(chunk)
    order = np.argsort(when, kind="stable")
    begin, finish = when.copy(), when.copy()
    if (level == level[:1]).all():
        moved = order[sizes[order] > 0]
        begin[moved], finish[moved] = _in_order(when[moved], sizes[moved], stage, chunk)
        return begin, finish
    queue = CopyQueue(stage, chunk, now=float(when[order[0]]))
    for copy in order.tolist():
        queue.submit(copy, float(sizes[copy]), float(when[copy]), int(level[copy]))
    for done in queue.finish_all():
        begin[done.copy], finish[done.copy] = done.begin, done.finish
    return begin, finish


def _in_order(
    when: FloatArray, sizes: FloatArray, stage: Stage, chunk: float
) -> tuple[FloatArray, FloatArray]:
    """Serve copies of one urgency, rising in time: each begins when it is set up and the last has left."""
    full, last = cut(sizes, chunk)
    step = max(chunk / stage.rate, stage.start)
    busy = full * step + np.maximum(last / stage.rate, stage.start)
    before = np.concatenate([[0.0], np.cumsum(busy)[:-1]]) if busy.size else busy
    begin = np.maximum.accumulate(when + stage.start - before) + before
    return begin, begin + full * step + last / stage.rate + stage.latency
