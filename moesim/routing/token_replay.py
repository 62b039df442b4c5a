"""Replay a trace of expert ids per token: who contributes which token of a step."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import numpy as np

from moesim.errors import InputError, unknown_name
from moesim.routing.counting import IdCounter, IntArray
from moesim.routing.format import AnyArray, release, row_blocks
from moesim.routing.trace import RoutingTrace
from moesim.routing.trace_window import select_tokens, split_window

ASSIGNMENTS = ("contiguous", "interleaved")

_ROWS = 1 << 13  # tokens read at once
_PAIRED = 1 << 16  # tokens of the past that are looked at pair by pair
_DEALT = 256  # tokens per device read at once when they are dealt


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
        self._touched = 0
        self._sequence = trace.sequence
        self._path = str(trace.path)
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

    def past_parts(self, count: int) -> list[IntArray]:
        """Return the past in parts, int64 [used layers, ids] each."""
        edges = np.linspace(0, self._window.past, count + 1).astype(np.int64).tolist()
        parts = []
        for low, high in pairwise(edges):
            total = np.zeros(self._counter.shape, dtype=np.int64)
            for part in row_blocks(high - low, _ROWS):
                total += self._count(slice(low + part.start, low + part.stop))
            parts.append(total)
        return parts

    def past_ids(self) -> IntArray:
        """Return the ids of the past's tokens, of many the first ones, int64 [tokens, used layers, top-k]."""
        return self._read(slice(0, min(self._window.past, _PAIRED))).astype(np.int64)

    def steps_available(self, tokens_per_step: int) -> int:
        """Return how many whole steps the evaluation part holds."""
        return self._window.length // tokens_per_step

    def request_rows(self, number: int, tokens: int) -> IntArray:
        """Return the tokens of the trace that are a request, int64 [tokens].

        Raises:
            InputError: the evaluation part is shorter.
        """
        window = self._window
        if tokens > window.length:
            message = f"a request of {tokens} tokens does not fit into the {window.length} that are simulated"
            raise InputError(message, self._path, hint="ask for a shorter prompt or output, or less profile")
        starts, lengths = self._sequences(window.first, window.length)
        able = starts[lengths >= tokens]
        if len(able):
            first = int(able[number % len(able)])
        else:
            first = window.first + number % (window.length // tokens) * tokens
        return self._rows(first, tokens)

    def past_requests(self, tokens: int) -> list[IntArray]:
        """Return the tokens of the past by sequence, at most so many, the last ones."""
        length = min(self._window.past, tokens)
        starts, lengths = self._sequences(self._window.past - length, length)
        return [self._rows(*pair) for pair in zip(starts.tolist(), lengths.tolist(), strict=True)]

    def _sequences(self, first: int, length: int) -> tuple[IntArray, IntArray]:
        """Return where sequences begin in a run of (selected) tokens, and their lengths."""
        if not length:
            return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64)
        if self._sequence is None:
            return np.array([first]), np.array([length])
        own = np.asarray(self._sequence[self._rows(first, length)])
        starts = np.append(0, np.flatnonzero(np.diff(own)) + 1)
        return starts + first, np.diff(np.append(starts, length))

    def _rows(self, first: int, count: int) -> IntArray:
        """Return the trace's numbers of some (selected) tokens."""
        rows = np.arange(first, first + count, dtype=np.int64)
        return rows if self._selected is None else self._selected[rows]

    def counts(self, step: int, share: IntArray) -> IntArray:
        """Return copies per stored id, int64 [used layers, devices, ids]; ``share`` is tokens per device."""
        start = (step * int(share.sum())) % self._window.length
        layers, ids = self._counter.shape
        counts = np.zeros((layers, len(share), ids), dtype=np.int64)
        if self._assign == "interleaved":
            self._deal(share, start, counts)
            return counts
        first = start
        for device, number in enumerate(share.tolist()):
            for part in row_blocks(number, _ROWS):
                for rows in self._wrapped(first + part.start, first + part.stop):
                    counts[:, device] += self._count(rows)
            first += number
        return counts

    def _deal(self, share: IntArray, start: int, counts: IntArray) -> None:
        """Count tokens dealt in turn; the file is read once, in order."""
        owner = _owners(share)
        devices = len(share)
        # Enough tokens per device that counting them outweighs adding up the experts.
        for part in row_blocks(len(owner), max(_ROWS, _DEALT * devices)):
            pieces = [self._read(rows) for rows in self._wrapped(start + part.start, start + part.stop)]
            ids = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
            order = np.argsort(owner[part], kind="stable")
            ends = np.cumsum(np.bincount(owner[part], minlength=devices))
            for device, mine in enumerate(np.split(order, ends[:-1])):
                if mine.size:
                    counts[:, device] += self._counter.count(ids[mine])
            release(self._ids)

    def _wrapped(self, first: int, stop: int) -> Iterator[slice]:
        """Turn places into rows, starting again where the evaluation part ends."""
        window = self._window
        while first < stop:
            inside = first % window.length
            taken = min(stop - first, window.length - inside)
            yield slice(window.first + inside, window.first + inside + taken)
            first += taken

    def _read(self, rows: slice) -> AnyArray:
        """Read stored ids of some (selected) tokens in the used layers."""
        picked: Any = rows if self._selected is None else self._selected[rows]
        return np.asarray(self._ids[picked][:, : self._used])

    def _count(self, rows: slice) -> IntArray:
        """Count stored ids of some (selected) tokens in the used layers."""
        counts = self._counter.count(self._read(rows))
        self._touched += rows.stop - rows.start
        if self._touched >= _ROWS:
            release(self._ids)
            self._touched = 0
        return counts


def _owners(share: IntArray) -> IntArray:
    """Deal places in rounds: in each, every device that still lacks tokens gets one, in device order.

    Args:
        share: tokens per device, int64 [devices].

    Returns:
        The device that each place of the step belongs to, int64 [tokens].
    """
    rounds = int(share.max())
    lacking = len(share) - np.cumsum(np.bincount(share, minlength=rounds + 1))[:rounds]
    place = np.cumsum(lacking) - lacking
    owner = np.empty(int(share.sum()), dtype=np.int64)
    for device, number in enumerate(share.tolist()):
        owner[place[:number]] = device
        place[:number] += 1
    return owner
