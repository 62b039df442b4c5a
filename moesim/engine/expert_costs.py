"""Prices of the expert layer under a plan: the experts of every device, fused or one after another."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.passes import FORWARD, INPUT_GRADIENTS, WEIGHT_GRADIENTS, Share
from moesim.engine.sends import reached
from moesim.engine.setup import Setup
from moesim.hardware.analytic import AnalyticCosts, ExpertCall
from moesim.hardware.grouped_gemm import ExpertShape
from moesim.hardware.spec import DTYPE_BYTES
from moesim.model.spec import ExpertSpec
from moesim.policies.plan import Assignments, Placement

Array = npt.NDArray[np.float64]
Indices = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class ExpertCosts:
    """What the experts of a step take.

    Attributes:
        seconds: time of each device, gradients of weights apart, [MoE layers, devices].
        copies: token copies it computes, [MoE layers, devices].
        active: experts with at least one copy, [MoE layers, devices].
        weights: time of the gradients of weights, 0 in a forward pass, [MoE layers, devices].
    """

    seconds: Array
    copies: Array
    active: Array
    weights: Array


class ExpertPricer:
    """Prices plans for one setup; holds what does not change between steps.

    Args:
        setup: the tokens that are run together.
        backward: price the backward pass.
    """

    def __init__(self, setup: Setup, backward: bool = False) -> None:
        self.setup = setup
        self.backward = backward
        self.kernels = setup.kernels
        self.layers = len(setup.moe_rows)
        self.devices = setup.cluster.size
        self.activation = DTYPE_BYTES[setup.model.activation_dtype]
        self.specs, self.spec_of = _distinct(setup)
        self.prices = list(setup.prices.values())
        kinds = list(setup.prices)
        kind_of = np.asarray([kinds.index(device) for device in setup.cluster.devices], dtype=np.int64)
        self.kind_of_key = np.tile(kind_of, self.layers)
        self.held = self._held(setup.placement)

    def placed(self, placement: Placement) -> ExpertPricer:
        """Return the prices under another placement."""
        changed = copy.copy(self)
        changed.held = self._held(placement)
        return changed

    def _held(self, placement: Placement) -> Array:
        held = np.broadcast_to(placement.experts_per_device, (self.layers, self.devices))
        return held.astype(np.float64).ravel()

    def price(self, assignments: Assignments) -> ExpertCosts:
        """Price all MoE layers of one step."""
        size = self.layers * self.devices
        shape = (self.layers, self.devices)
        keys = assignments.layer * self.devices + assignments.device
        rows = np.asarray(assignments.copies, dtype=np.float64)
        copies = np.bincount(keys, weights=rows, minlength=size).astype(np.float64)
        active = np.bincount(keys, weights=rows > 0, minlength=size).astype(np.float64)
        seconds, weights = np.zeros(size), np.zeros(size)
        for kind, prices in enumerate(self.prices):
            mine = self.kind_of_key[keys] == kind if len(self.prices) > 1 else None
            if self.backward:
                seconds += self._on(prices, assignments, rows, keys, mine, INPUT_GRADIENTS)
                weights += self._on(prices, assignments, rows, keys, mine, WEIGHT_GRADIENTS)
            else:
                seconds += self._on(prices, assignments, rows, keys, mine, FORWARD)
        return ExpertCosts(*(one.reshape(shape) for one in (seconds, copies, active, weights)))

    def _on(
        self,
        prices: AnalyticCosts,
        assignments: Assignments,
        rows: Array,
        keys: Indices,
        mine: npt.NDArray[np.bool_] | None,
        share: Share,
    ) -> Array:
        """Price what one kind of device computes in a pass, [keys]."""
        size = self.layers * self.devices
        of_row = self.spec_of[assignments.layer, assignments.expert] if len(self.specs) > 1 else None
        total = np.zeros(size)
        calls: list[ExpertCall] = []
        for index, spec in enumerate(self.specs):
            if not spec.gemms:
                continue
            chosen = mine
            if of_row is not None:
                chosen = of_row == index if mine is None else mine & (of_row == index)
            part, part_keys = (rows, keys) if chosen is None else (rows[chosen], keys[chosen])
            if self.kernels.grouped:
                calls.append(self._call(prices, spec, part, part_keys))
                extra = np.bincount(part_keys, weights=part, minlength=size) * self._pass_bytes(spec)
                total += share.passes * prices.stream(extra)
            else:
                seconds = self._one_by_one(prices, spec, part, share)
                total += np.bincount(part_keys, weights=seconds, minlength=size)
        if calls:
            total += share.products * prices.fused(calls)
        return total

    def _call(self, prices: AnalyticCosts, spec: ExpertSpec, rows: Array, keys: Indices) -> ExpertCall:
        """Describe a fused call per layer and device over all of its experts of one make."""
        size = self.layers * self.devices
        here = np.bincount(keys, weights=rows, minlength=size).astype(np.float64)
        everyone, top_k = np.full(size, float(self.setup.tokens.sum())), self.setup.model.top_k
        shape = ExpertShape(
            hidden=float(spec.hidden),
            intermediate=float(spec.intermediate),
            gated=len(spec.gemms) > 1 and spec.gemms[0].n > spec.intermediate,
            # Stored bytes per weight, scales of block formats included.
            weight_bytes=spec.bytes / spec.params,
            dtype=prices.arithmetic(spec.dtype),
            activation_bytes=self.activation,
            matrices=tuple((float(gemm.n), float(gemm.k)) for gemm in spec.gemms),
        )
        return ExpertCall(
            shape=shape,
            dtype=spec.dtype,
            copies=rows,
            keys=keys,
            held=self.held,
            # Copies of a token that reach a device arrive as one token; or all tokens are there.
            tokens=everyone if self.setup.gathers else reached(here, everyone, top_k),
            pairs=np.minimum(here, 1.0) * everyone * top_k if self.setup.gathers else None,
            top_k=top_k,
            experts=self.setup.model.experts,
        )

    def _one_by_one(self, prices: AnalyticCosts, spec: ExpertSpec, rows: Array, share: Share) -> Array:
        """Price experts run one after another; the host keeps up only while kernels outlast launches."""
        active = np.minimum(rows, 1.0)
        time = share.passes * prices.stream(rows * self._pass_bytes(spec))
        for gemm in spec.gemms:
            time = time + share.products * prices.gemm(rows, gemm.n, gemm.k, spec.dtype)
        launched = self.kernels.expert_ops if share.passes else len(spec.gemms)
        time = np.maximum(time, active * (launched * self._launch(prices)))
        return time + active * (share.reads * self.kernels.expert_syncs * prices.device.host_sync_s)

    def _pass_bytes(self, spec: ExpertSpec) -> float:
        """Bytes of the passes outside the kernels, per copy."""
        wide = self.kernels.activation_passes * spec.intermediate
        return float((wide + self.kernels.expert_passes * self.setup.model.hidden) * self.activation)

    def _launch(self, prices: AnalyticCosts) -> float:
        return 0.0 if self.kernels.graphs else prices.device.launch_s


def _distinct(setup: Setup) -> tuple[list[ExpertSpec], Indices]:
    """Return the distinct experts and, per MoE layer and expert, which of them it is."""
    specs: dict[ExpertSpec, int] = {}
    table = [[specs.setdefault(expert, len(specs)) for expert in experts] for experts in setup.routed]
    return list(specs), np.asarray(table, dtype=np.int64)
