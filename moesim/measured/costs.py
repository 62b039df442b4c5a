"""Measured tables as the source of a run's prices, with the analytic models where tables do not reach.

GEMMs and attention cores are read off directly. Expert layers were timed under a few loads only, so their
times are read for the load that was timed and carried over to that of the step by the analytic model:
``measured(rows) * analytic(this load) / analytic(the load that was timed)``.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from moesim.hardware.analytic import (
    DENSE_KINDS,
    EXPERT_KINDS,
    AnalyticCosts,
    AttentionShape,
    ExpertCall,
    Floors,
)
from moesim.hardware.calibration import Calibration
from moesim.hardware.calibrations import Calibrations
from moesim.hardware.grouped_gemm import layer_work
from moesim.hardware.grouped_kernels import count_groups
from moesim.hardware.spec import DTYPE_BYTES, Device
from moesim.measured.expert_curves import ExpertCurves
from moesim.measured.notes import Notes, outside
from moesim.measured.source import MeasuredTables, measured_tables

Array = npt.NDArray[np.float64]


class MeasuredCosts(AnalyticCosts):
    """Prices kernels on one kind of device off published timings.

    Arguments and errors are those of ``AnalyticCosts``.

    Attributes:
        notes: what was priced analytically because it lies outside the tables.

    Raises:
        InputError: the tables are not installed, or hold nothing of this device.
    """

    def __init__(
        self,
        device: Device,
        calibrations: Calibrations | None = None,
        activation_dtype: str = "bf16",
        backend: str = "auto",
    ) -> None:
        super().__init__(device, calibrations, activation_dtype, backend)
        self.tables: MeasuredTables = measured_tables(device)
        self.notes = Notes()

    def gemm(self, rows: npt.ArrayLike, n: float, k: float, dtype: str) -> Array:
        """Price dense GEMMs; see ``AnalyticCosts.gemm``."""
        asked = np.asarray(rows, dtype=np.float64)
        told = self.tables.gemm(asked, n, k, DENSE_KINDS.get(dtype, dtype))
        if told.inside.all():
            return told.seconds
        self.notes.add(outside(f"products with [{k:g} x {n:g}] weights, {dtype}", self.device.name, ""))
        return np.where(told.inside, told.seconds, super().gemm(asked, n, k, dtype))

    def attention(
        self,
        shape: AttentionShape,
        phase: str,
        batch: npt.ArrayLike,
        queries: npt.ArrayLike,
        context: npt.ArrayLike,
    ) -> Array:
        """Price attention cores; see ``AnalyticCosts.attention``."""
        analytic = super().attention(shape, phase, batch, queries, context)
        if shape.kind not in ("gqa", "mla"):
            return analytic
        latent = shape.kind == "mla"
        narrow = shape.key_bytes < DTYPE_BYTES[self.activation_dtype]
        told = self.tables.attention(
            shape.kind,
            phase,
            batch,
            queries,
            context,
            heads=shape.heads,
            kv_heads=1 if latent else shape.kv_heads,
            head_dim=128 if latent else shape.head_dim,
            window=shape.window or 0,
            dtype="bf16_kv8" if narrow else self.activation_dtype,
        )
        if not told.inside.all():
            what = f"{phase} attention of {shape.heads} heads ({shape.kind})"
            self.notes.add(outside(what, self.device.name, ""))
        return np.where(told.inside, told.seconds, analytic)

    def fused(self, calls: Sequence[ExpertCall]) -> Array:
        """Price fused expert layers; see ``AnalyticCosts.fused``."""
        if len(calls) != 1:
            self.notes.add(outside("layers of unlike experts", self.device.name, ""))
            return super().fused(calls)
        call = calls[0]
        kind = EXPERT_KINDS.get(call.dtype, call.dtype)
        curves = self.tables.expert_curves(
            call.shape,
            top_k=call.top_k,
            experts=call.experts,
            dtype=kind,
            backend=None if self.backend == "auto" else self.backend,
        )
        what = f"experts of [{call.shape.hidden:g} x {call.shape.intermediate:g}], {kind}"
        if curves is None:
            self.notes.add(outside(what, self.device.name, ""))
            return super().fused(calls)
        rows = np.bincount(call.keys, weights=call.copies, minlength=len(call.held)).astype(np.float64)
        result = np.zeros(len(rows))
        for held in np.unique(call.held[rows > 0]):
            here = np.flatnonzero((call.held == held) & (rows > 0))
            found = self._behind(curves, int(held), kind)
            work = call.work(self.device, found.kernel).seconds(found.constants)[here]
            timed = _Timed(self.device, found, curves, call)
            told = curves.seconds(rows[here], int(held), timed.seconds)
            base = timed.seconds(rows[here], int(held))
            if not told.inside.all():
                self.notes.add(outside(what, self.device.name, curves.reach(int(held))))
            result[here] = np.where(told.inside, told.seconds * work / np.maximum(base, 1e-12), work)
        return result

    def _behind(self, curves: ExpertCurves, held: int, kind: str) -> Calibration:
        """Return the analytic model of the kernels whose timings are read."""
        nearest = min(curves.backends, key=lambda size: abs(size - held))
        return self.calibrations.grouped(self.device, kind, curves.backends[nearest])

    def fused_floors(self, dtype: str) -> Floors:
        """Return the datasheet's rates, which measured kernels may come near."""
        bandwidth = self.device.memory.bandwidth
        # Rows that pass between two GEMMs may stay in the cache.
        return Floors(self.device.flops(self.arithmetic(dtype)), bandwidth, np.inf)

    def gemm_floors(self, dtype: str) -> Floors:
        """Return the datasheet's rates; weights and rows may be found in the cache."""
        return Floors(self.device.flops(dtype), np.inf, np.inf)


class _Timed:
    """The analytic price of the calls that were timed."""

    def __init__(self, device: Device, found: Calibration, curves: ExpertCurves, call: ExpertCall) -> None:
        self.device, self.found, self.curves, self.call = device, found, curves, call

    def seconds(self, rows: Array, held: int) -> Array:
        """Return the analytic seconds of timed calls with so many rows, [points]."""
        distinct, inverse = np.unique(np.rint(rows), return_inverse=True)
        groups = self.curves.counts(distinct, held)
        # In the timings the tokens of the whole group enter the call.
        tokens = distinct * (self.call.experts / held) / self.call.top_k
        counts = count_groups(groups, self.found.kernel, top_k=self.call.top_k, tokens=tokens)
        work = layer_work(self.device, self.found.kernel, self.call.shape, counts)
        return np.asarray(work.seconds(self.found.constants)[inverse], dtype=np.float64)
