"""A recorded trace as a routing source: its first part is the past, the rest is replayed."""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.routing.affinity import Affinity
from moesim.routing.counting import IntArray, to_logical
from moesim.routing.counts_replay import CountsReplay
from moesim.routing.load import Load
from moesim.routing.requests import Tokens
from moesim.routing.source import check_tokens
from moesim.routing.token_replay import TokenReplay
from moesim.routing.trace import RoutingTrace
from moesim.routing.trace_window import layer_columns


class TraceSource:
    """Replay a trace for a model.

    The first ``profile`` of the trace is the past that placement policies may see; the rest is what is
    simulated. Step ``s`` of ``n`` tokens takes tokens ``s * n`` to ``(s + 1) * n`` of the rest and starts
    again at its beginning when it ends, so a step depends on nothing but its number and its tokens.
    A counts-only trace gives step ``s`` the expert shares of recorded step ``s``, scaled to
    ``tokens * top_k`` copies per layer exactly, and pooled over devices because it does not say whose
    they are. Physical ids become logical ones.

    Args:
        trace: an open trace.
        layers: MoE layers of the model; None takes those of the trace.
        mode: ``exact`` wants as many layers as the trace has; ``cycle`` repeats the trace's layers
            (or leaves out its last ones) to match the model.
        profile: share of the trace that is the past, 0 to 1; 1 makes past and evaluation both the whole
            trace, which flatters every policy that learns from the past.
        assign: ``contiguous`` gives each device its own run of tokens, ``interleaved`` deals them in turn.
        task: use only tokens of this task.
        phase: use only ``prefill`` or ``decode`` tokens.

    Raises:
        InputError: layers that do not match, an unknown mode, task or phase, or nothing to simulate.
    """

    def __init__(
        self,
        trace: RoutingTrace,
        layers: int | None = None,
        mode: Literal["exact", "cycle"] = "exact",
        profile: float = 0.25,
        assign: Literal["contiguous", "interleaved"] = "contiguous",
        task: str | None = None,
        phase: Literal["prefill", "decode"] | None = None,
    ) -> None:
        self.trace = trace
        self.name = trace.name
        self.experts = trace.experts
        self.top_k = trace.top_k
        self._columns = layer_columns(trace, layers, mode)
        self.layers = len(self._columns)
        self._used = min(self.layers, len(trace.layers))
        self._replay: TokenReplay | CountsReplay
        if trace.is_counts:
            if task is not None or phase is not None:
                message = "a counts-only trace does not tell tasks or phases apart"
                raise InputError(message, str(trace.path), hint="leave out task and phase")
            self._replay = CountsReplay(trace, self._used, profile)
        else:
            self._replay = TokenReplay(trace, self._used, profile, assign, task, phase)
        self._profile: IntArray | None = None

    def profile(self) -> IntArray:
        """Return copies per expert in the past, int64 [layers, experts], read only; zeros without a past."""
        if self._profile is None:
            counts = self._finish(self._replay.past())
            counts.flags.writeable = False
            self._profile = counts
        return self._profile

    def windows(self, count: int) -> IntArray:
        """Return the past in ``count`` parts of about equal length, int64 [count, layers, experts]."""
        return np.stack([self._finish(part) for part in self._replay.past_parts(count)])

    def affinity(self) -> Affinity:
        """Return which experts shared tokens in the past; independent choices where only totals are known."""
        ids = self._replay.past_ids()
        if ids is None or not len(ids):
            return Affinity.independent(self.profile(), self.top_k)
        mapping = self.trace.physical_to_logical
        if mapping is not None:
            layers = np.arange(self._used)[np.newaxis, :, np.newaxis]
            ids = np.asarray(mapping, dtype=np.int64)[layers, ids]
        return Affinity.of_tokens(ids, self.experts).cycled(np.asarray(self._columns, dtype=np.int64))

    def steps_available(self, tokens_per_step: int) -> int | None:
        """Return how many whole steps pass before the trace starts again; None for empty steps."""
        return self._replay.steps_available(tokens_per_step) if tokens_per_step > 0 else None

    def load(self, step: int, tokens: npt.ArrayLike) -> Load:
        """Return the load of a step.

        Args:
            step: number of the step, from 0.
            tokens: tokens that each device contributes, whole numbers [devices].

        Returns:
            Counts int64 [layers, devices, experts] ([layers, 1, experts] from a counts-only trace); every
            layer sums to ``tokens.sum() * top_k``.

        Raises:
            InputError: tokens that are not whole numbers, or a damaged trace.
        """
        if step < 0:
            message = f"steps are numbered from 0, got {step}"
            raise InputError(message)
        share = check_tokens(tokens)
        return Load(self._finish(self._replay.counts(step, share)), share)

    def request(self, number: int, tokens: int) -> Tokens:
        """Return the first tokens of a recorded sequence, see ``moesim.routing.requests.TokenSource``.

        Requests are the sequences that are long enough, in turn; where there is none, runs of the
        trace one behind the other.

        Raises:
            InputError: a counts-only trace, or one shorter than a request.
        """
        replay = self._tokens
        rows = replay.request_rows(number, tokens)
        return self._read(rows)

    def past(self, tokens: int) -> list[Tokens]:
        """Return the sequences of the past, at most so many tokens.

        Raises:
            InputError: a counts-only trace.
        """
        return [self._read(rows) for rows in self._tokens.past_requests(tokens)]

    @property
    def _tokens(self) -> TokenReplay:
        if isinstance(self._replay, TokenReplay):
            return self._replay
        message = f"the trace '{self.trace.name}' holds counts only, not the experts of single tokens"
        raise InputError(message, str(self.trace.path))

    def _read(self, rows: IntArray) -> Tokens:
        ids = self.trace.logical_ids(rows)[:, self._columns].astype(np.int64)
        weights = self.trace.gate_weights(rows)
        return Tokens(ids, None if weights is None else weights[:, self._columns].astype(np.float64))

    def _finish(self, counts: IntArray) -> IntArray:
        """Turn counts of stored ids in the used layers into logical counts in all layers of the model."""
        mapping = self.trace.physical_to_logical
        logical = to_logical(counts, None if mapping is None else mapping[: self._used], self.experts)
        return logical if self.layers == self._used else np.asarray(logical[self._columns])
