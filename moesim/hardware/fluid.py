"""Concurrent flows on shared links: when does each finish?

``FluidNetwork`` answers for flows known in advance, ``LiveFluid`` while an event engine adds and removes
them; both are the same calculation, exact for fluid flows that share links max-min fairly.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from moesim.errors import InputError
from moesim.hardware.fluid_live import LiveFluid
from moesim.hardware.max_min import FloatArray, Flow

__all__ = ["Flow", "FluidNetwork", "LiveFluid"]


class FluidNetwork:
    """Links that flows share, for flows known in advance."""

    def __init__(self, bandwidth: FloatArray) -> None:
        """Take the bandwidth of each link [links] (bytes/s).

        Raises:
            InputError: a bandwidth is not above zero.
        """
        self.bandwidth = np.asarray(bandwidth, dtype=np.float64)
        if not (self.bandwidth > 0).all():
            message = "every link needs a bandwidth above zero"
            raise InputError(message)

    def finish_times(self, flows: Sequence[Flow]) -> FloatArray:
        """Return when each flow has been moved completely [flows] (s).

        Raises:
            InputError: a flow with impossible amounts or on a link that does not exist.
        """
        starts = np.array([flow.start_s for flow in flows], dtype=np.float64)
        finish = starts.copy()
        if not flows:
            return finish
        if not np.isfinite(starts).all():
            message = "a flow needs a finite start"
            raise InputError(message)
        live = LiveFluid(self.bandwidth, float(starts.min()))
        order = np.argsort(starts, kind="stable")
        for index in order.tolist():
            start = float(starts[index])
            for when, number in live.advance(start) if start > live.now else ():
                finish[order[number]] = when
            live.add(flows[index], start)
        while (event := live.next_completion()) is not None:
            for when, number in live.advance(event[0]):
                finish[order[number]] = when
        return finish
