"""Replay a trace of expert ids per token: who contributes which token of a step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from moesim.errors import unknown_name
from moesim.routing.counting import IdCounter, IntArray
from moesim.routing.format import row_blocks
from moesim.routing.trace import RoutingTrace, Rows
from moesim.routing.trace_window import select_tokens, split_window

ASSIGNMENTS = ("contiguous", "interleaved")

_ROWS = 1 << 13  # tokens gathered at once


class TokenReplay:
    """Count the copies of a step from the ids of its tokens.

    Args:
        trace: a trace of tokens.
        used: leading layers of the trace to count.
        profile: share of the tokens that is the past.
        assign: ``contiguous`` or ``interleaved``.
        task: only tokens of this task.
        phase: only tokens of this phase.

    Raises:
        InputError: an unknown assignment, task or phase, or nothing left to simulate.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        used: int,
        profile: float,
        assign: str,
        task: str | None,
        phase: str | None,
    ) -> None:
        if assign not in ASSIGNMENTS:
            raise unknown_name("assignment of tokens to devices", assign, ASSIGNMENTS)
        self._assign = assign
        self._used = used
        self._ids = trace.ids
        self._selected = select_tokens(trace, task, phase)
        total = trace.tokens if self._selected is None else len(self._selected)
        self._window = split_window(total, profile, "token", str(trace.path))
        self._counter = IdCounter(used, trace.top_k, trace.id_limit, str(trace.path))

    def past(self) -> IntArray:
        """Return copies per stored id in the past, int64 [used layers, ids]."""
        total = np.zeros(self._counter.shape, dtype=np.int64)
        for part in row_blocks(self._window.past, _ROWS):
            total += self._count(part)
        return total

    def steps_available(self, tokens_per_step: int) -> int:
        """Return how many whole steps the evaluation part holds."""
        return self._window.length // tokens_per_step

    def counts(self, step: int, share: IntArray) -> IntArray:
        """Return copies per stored id, int64 [used layers, devices, ids]; ``share`` is tokens per device."""
        start = (step * int(share.sum())) % self._window.length
        layers, ids = self._counter.shape
        counts = np.zeros((layers, len(share), ids), dtype=np.int64)
        for device, places in self._places(share):
            for rows in self._wrapped(places, start):
                counts[:, device] += self._count(rows)
        return counts

    def _places(self, share: IntArray) -> Iterator[tuple[int, Rows]]:
        """Give each device the places of its tokens within the step."""
        if self._assign == "contiguous":
            first = 0
            for device, number in enumerate(share.tolist()):
                for part in row_blocks(number, _ROWS):
                    yield device, slice(first + part.start, first + part.stop)
                first += number
            return
        # Deal in rounds: in each round every device that still lacks tokens gets one, in device order.
        rounds = int(share.max())
        lacking = len(share) - np.cumsum(np.bincount(share, minlength=rounds + 1))[:rounds]
        place = np.cumsum(lacking) - lacking
        for device, number in enumerate(share.tolist()):
            for part in row_blocks(number, _ROWS):
                yield device, place[part].copy()
            place[:number] += 1

    def _wrapped(self, places: Rows, start: int) -> Iterator[Rows]:
        """Turn places in the step into rows, starting again where the evaluation part ends."""
        window = self._window
        if not isinstance(places, slice):
            yield window.first + (places + start) % window.length
            return
        place, left = start + places.start, places.stop - places.start
        while left > 0:
            inside = place % window.length
            taken = min(left, window.length - inside)
            yield slice(window.first + inside, window.first + inside + taken)
            place, left = place + taken, left - taken

    def _count(self, rows: Rows) -> IntArray:
        """Count stored ids of some (selected) tokens in the used layers."""
        picked: Any = rows if self._selected is None else self._selected[rows]
        return self._counter.count(self._ids[picked][:, : self._used])
