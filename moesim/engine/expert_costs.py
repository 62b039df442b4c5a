"""Prices of the expert layer under a plan: the grouped GEMM of every device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.setup import Setup
from moesim.hardware.compute import GemmWork, RowCounts, gemm_seconds, gemm_work, memory_seconds
from moesim.hardware.spec import DTYPE_BYTES, Device
from moesim.model.spec import ExpertSpec
from moesim.policies.plan import Assignments

Array = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class ExpertCosts:
    """What the experts of a step take.

    Attributes:
        seconds: time of each device, [MoE layers, devices].
        copies: token copies it computes, [MoE layers, devices].
        active: experts with at least one copy, [MoE layers, devices].
    """

    seconds: Array
    copies: Array
    active: Array


class ExpertPricer:
    """Prices plans for one setup; holds what does not change between steps."""

    def __init__(self, setup: Setup) -> None:
        self.setup = setup
        self.kernels = setup.kernels
        self.layers = len(setup.moe_rows)
        self.devices = setup.cluster.size
        self.model_width = setup.model.hidden
        self.activation = DTYPE_BYTES[setup.model.activation_dtype]
        self.specs, self.spec_of = _distinct(setup)
        kinds = list(dict.fromkeys(setup.cluster.devices))
        self.kinds = kinds
        self.kind_of = np.asarray([kinds.index(d) for d in setup.cluster.devices], dtype=np.int64)

    def price(self, assignments: Assignments) -> ExpertCosts:
        """Price all MoE layers of one step."""
        size = self.layers * self.devices
        shape = (self.layers, self.devices)
        keys = assignments.layer * self.devices + assignments.device
        counts = RowCounts.of(assignments.copies)
        totals = counts.grouped(keys, size)
        if self.kernels.grouped:
            seconds = self._grouped(assignments, counts, keys).reshape(shape)
        else:
            seconds = self._looped(assignments, counts, keys).reshape(shape)
        return ExpertCosts(seconds, totals.rows.reshape(shape), totals.active.reshape(shape))

    def _by_spec(self, assignments: Assignments) -> list[tuple[ExpertSpec, npt.NDArray[np.int64] | None]]:
        """Split rows by what the expert is; None stands for all rows."""
        if len(self.specs) == 1:
            return [(self.specs[0], None)]
        of_row = self.spec_of[assignments.layer, assignments.expert]
        return [(spec, np.flatnonzero(of_row == index)) for index, spec in enumerate(self.specs)]

    def _grouped(self, assignments: Assignments, counts: RowCounts, keys: npt.NDArray[np.int64]) -> Array:
        """One kernel per projection and device over all of its experts."""
        size = self.layers * self.devices
        works: dict[tuple[int, str], GemmWork] = {}
        passes = np.zeros(size)
        launched = np.zeros(size)
        for spec, rows in self._by_spec(assignments):
            part = counts if rows is None else counts.take(rows)
            summed = part.grouped(keys if rows is None else keys[rows], size)
            for index in range(len(spec.gemms)):
                work = self._work(summed, spec, index)
                known = works.get((index, spec.dtype))
                works[(index, spec.dtype)] = work if known is None else known + work
            if spec.gemms:
                passes += summed.rows * self._pass_bytes(spec)
                launched = np.maximum(launched, np.minimum(summed.active, 1.0))
        return self._on_devices(list(works.items()), passes, launched * self.kernels.expert_ops)

    def _looped(self, assignments: Assignments, counts: RowCounts, keys: npt.NDArray[np.int64]) -> Array:
        """One expert after another; the host keeps up only while kernels outlast their launches."""
        size = self.layers * self.devices
        total = np.zeros(size)
        for spec, rows in self._by_spec(assignments):
            if not spec.gemms:
                continue
            part = counts if rows is None else counts.take(rows)
            part_keys = keys if rows is None else keys[rows]
            kind_of_row = self.kind_of[part_keys % self.devices]
            seconds = np.zeros(part.rows.shape)
            for kind, device in enumerate(self.kinds):
                time = memory_seconds(device, part.rows * self._pass_bytes(spec))
                for index in range(len(spec.gemms)):
                    time = time + gemm_seconds(device, self._work(part, spec, index), spec.dtype)
                time = np.maximum(time, part.active * (self.kernels.expert_ops * self._launch(device)))
                time = time + part.active * (self.kernels.expert_syncs * device.host_sync_s)
                seconds = np.where(kind_of_row == kind, time, seconds)
            total += np.bincount(part_keys, weights=seconds, minlength=size)
        return total

    def _work(self, counts: RowCounts, spec: ExpertSpec, index: int) -> GemmWork:
        gemm = spec.gemms[index]
        return gemm_work(
            counts,
            gemm.n,
            gemm.k,
            # Stored bytes per weight, scales of block formats included.
            weight_bytes=spec.bytes / spec.params,
            activation_bytes=self.activation,
        )

    def _pass_bytes(self, spec: ExpertSpec) -> float:
        """Bytes of the passes outside the GEMMs, per copy."""
        elements = (
            self.kernels.activation_passes * spec.intermediate + self.kernels.expert_passes * self.model_width
        )
        return float(elements * self.activation)

    def _launch(self, device: Device) -> float:
        return 0.0 if self.kernels.graphs else device.launch_s

    def _on_devices(
        self, works: list[tuple[tuple[int, str], GemmWork]], passes: Array, launches: Array
    ) -> Array:
        """Price one kernel per projection on each column's own device."""
        kind_of_key = np.tile(self.kind_of, self.layers)
        result = np.zeros(passes.shape)
        for kind, device in enumerate(self.kinds):
            time = memory_seconds(device, passes) + launches * self._launch(device)
            for (_, dtype), work in works:
                time = time + gemm_seconds(device, work, dtype)
            result = time if len(self.kinds) == 1 else np.where(kind_of_key == kind, time, result)
        return result


def _distinct(setup: Setup) -> tuple[list[ExpertSpec], npt.NDArray[np.int64]]:
    """Return the distinct experts and, per MoE layer and expert, which of them it is."""
    specs: dict[ExpertSpec, int] = {}
    table = [[specs.setdefault(expert, len(specs)) for expert in experts] for experts in setup.routed]
    return list(specs), np.asarray(table, dtype=np.int64)
