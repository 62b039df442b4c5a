"""What devices, links and the CPU take in an offloading run, looked up once and remembered."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Final, Literal

import numpy as np
import numpy.typing as npt

from moesim.causes import CAUSES
from moesim.engine.bound import BoundPricer
from moesim.engine.expert_costs import ExpertPricer
from moesim.engine.host import kernels_launched
from moesim.engine.own_costs import AFTER_COMBINE, BEFORE_DISPATCH, OwnCosts, own_costs
from moesim.engine.setup import Setup
from moesim.hardware.copies import Stage, copy_seconds
from moesim.hardware.copy_paths import CopyPaths
from moesim.policies.plan import Assignments

Array = npt.NDArray[np.float64]

_CONTEXTS: Final = 9
"""Lengths of context at which a decoded token is priced; between them attention grows in a straight line."""


@dataclass(frozen=True, eq=False)
class Own:
    """What devices do by themselves in one iteration.

    Attributes:
        before: seconds before the router of each MoE layer answers, from the combine of the one before;
            and after the last combine [MoE layers + 1, devices].
        shared: seconds of the shared experts of each MoE layer [MoE layers, devices].
        shares: seconds of all of it by transformer layer and cause, mean over devices [layers, causes].
    """

    before: Array
    shared: Array
    shares: Array

    def between(self, other: Own, part: float) -> Own:
        """Return what lies so far on the way to another."""
        mixed = (
            mine + part * (theirs - mine)
            for mine, theirs in (
                (self.before, other.before),
                (self.shared, other.shared),
                (self.shares, other.shares),
            )
        )
        return Own(*mixed)


class OffloadPrices:
    """Prices of one setup.

    Args:
        setup: the run; its tokens are those of one decoded token of every sequence.
        narrow: bytes of each expert over those that the model gives it [MoE layers, experts].
    """

    def __init__(self, setup: Setup, narrow: Array) -> None:
        self.setup = setup
        self.bytes = setup.expert_bytes * narrow
        self._own: dict[tuple[str, int, int], Own] = {}
        self._experts: dict[tuple[int, int, tuple[int, ...]], float] = {}
        self._cpu: dict[tuple[int, int], float] = {}
        self._pricer: ExpertPricer | None = None
        rows = [tuple(experts[0] for experts in setup.routed)]
        kinds: dict[object, int] = {}
        self._kind_of = [kinds.setdefault(expert, len(kinds)) for expert in rows[0]]
        self._device_kind = [setup.cluster.devices.index(device) for device in setup.cluster.devices]
        shape = setup.cluster.shape
        assert shape.host is not None
        self.processor = shape.host.processor
        self.unified = shape.host.unified
        self.token_bytes = float(setup.model.token_bytes)
        self.flops = [experts[0].flops_per_token for experts in setup.routed]
        self.weights = [float(row[0]) for row in setup.expert_bytes]

    def own(self, phase: Literal["prefill", "decode"], tokens: int, context: int) -> Own:
        """Return what devices do by themselves.

        Args:
            phase: of the iteration.
            tokens: tokens of each device.
            context: tokens of a prompt, or in the KV cache of a sequence.
        """
        key = (phase, tokens, context)
        if key not in self._own:
            workload = replace(
                self.setup.workload, phase=phase, tokens_per_device=tokens, context=context, requests=None
            )
            setup = replace(self.setup, workload=workload, bounds=None)
            for name in ("prices", "tables", "said"):
                vars(setup)[name] = getattr(self.setup, name)
            self._own[key] = _own(setup, own_costs(setup))
        return self._own[key]

    def decoding(self, tokens: int, first: int, last: int, context: int) -> Own:
        """Return ``own`` of decoding at a context from ``first`` to ``last``, between priced lengths."""
        grid = np.unique(np.linspace(first, last, min(_CONTEXTS, last - first + 1)).astype(np.int64))
        at = int(np.searchsorted(grid, context, side="right")) - 1
        low = int(grid[at])
        if low == context or at + 1 == len(grid):
            return self.own("decode", tokens, low)
        high = int(grid[at + 1])
        part = (context - low) / (high - low)
        return self.own("decode", tokens, low).between(self.own("decode", tokens, high), part)

    def experts(self, device: int, layer: int, counts: tuple[int, ...]) -> float:
        """Return the time of a group of experts on a device, all weights being there (s).

        Args:
            device: the device.
            layer: MoE layer.
            counts: tokens of each expert, in any order.
        """
        key = (self._device_kind[device], self._kind_of[layer], tuple(sorted(counts)))
        found = self._experts.get(key)
        if found is None:
            if self._pricer is None:
                self._pricer = ExpertPricer(self.setup)
            size = len(counts)
            rows = Assignments(
                layer=np.full(size, layer),
                expert=np.arange(size),
                device=np.full(size, device),
                copies=np.asarray(key[2], dtype=np.int64),
            )
            found = float(self._pricer.price(rows).seconds[layer, device])
            self._experts[key] = found
        return found

    def cpu(self, layer: int, tokens: int) -> float:
        """Return the time of one expert on the CPU (s)."""
        key = (self._kind_of[layer], tokens)
        if key not in self._cpu:
            self._cpu[key] = self.processor.seconds(tokens, self.flops[layer], self.weights[layer])
        return self._cpu[key]

    @cached_property
    def _ways(self) -> tuple[tuple[Stage, ...], tuple[Stage, ...]]:
        paths = CopyPaths(self.setup.cluster, 0)
        return paths.stages(0, "host"), paths.stages("host", 0)

    def to_cpu(self, tokens: int) -> float:
        """Return what it takes to send tokens to the CPU (s); nothing in unified memory."""
        return self._hop(0, tokens)

    def from_cpu(self, tokens: int) -> float:
        """Return what it takes to send results back (s)."""
        return self._hop(1, tokens)

    def _hop(self, way: int, tokens: int) -> float:
        stages = self._ways[way]
        if not stages or not tokens:
            return 0.0
        return float(copy_seconds(tokens * self.token_bytes, stages))

    @cached_property
    def floors(self) -> BoundPricer:
        """Rates that no kernel exceeds."""
        return BoundPricer(self.setup, [own_costs(self.setup)])

    def least(self, copies: npt.NDArray[np.int64], shared: Array) -> Array:
        """Return the least time of experts and shared experts, with all CPUs at work too [MoE layers] (s).

        Args:
            copies: copies that are computed [MoE layers, experts].
            shared: seconds of shared experts [MoE layers, devices].
        """
        rows = copies.astype(np.float64)
        pricer = self.floors
        arithmetic = (rows * pricer.arithmetic).sum(axis=2)
        traffic = (rows * pricer.traffic + (rows > 0) * pricer.weights).sum(axis=2)
        device = np.maximum(arithmetic, traffic).max(axis=0)
        flops = rows * np.asarray(self.flops)[:, np.newaxis] / self.processor.flops
        read = (rows > 0) * (np.asarray(self.weights)[:, np.newaxis] / self.processor.read)
        shape = self.setup.cluster.shape
        assert shape.host is not None
        hosts = sum(-(-len(row) // shape.host.devices_per_host) for row in shape.nodes)
        cpu = np.maximum(flops, read).sum(axis=1) / hosts
        first = shared.min(axis=1)
        # The device has its shared experts to do besides; the split ends on both sides at once, if it can.
        part = np.clip((cpu - first) / np.maximum(device + cpu, 1e-30), 0.0, 1.0)
        return np.asarray(first + part * device)


def _own(setup: Setup, costs: OwnCosts) -> Own:
    """Cut the costs of an iteration at its routers; shared experts follow the router."""
    rows = setup.moe_rows
    shares = np.zeros((len(setup.layers), len(CAUSES)))
    for cause in (*BEFORE_DISPATCH, AFTER_COMBINE):
        shares[:, CAUSES.index(cause)] = getattr(costs, cause).mean(axis=1)
    shared = costs.dense[rows].copy()
    head = costs.head[-1] if rows[-1] == len(setup.layers) - 1 else np.zeros(setup.cluster.size)
    shared[-1] = np.maximum(shared[-1] - head, 0.0)
    dense = costs.dense.copy()
    dense[rows] = 0.0
    before = np.vstack(replace(costs, dense=dense).segments(rows))
    before[-1] += head
    waits = _launches(setup, before[:-1])
    before[:-1] += waits[:, np.newaxis]
    shares[rows, CAUSES.index("launch")] = waits
    return Own(before, shared, shares)


def _launches(setup: Setup, work: Array) -> Array:
    """Return how long devices wait for their host before the routers answer [MoE layers].

    The host reads every router's answer back before it knows what to load, so its head start is gone in
    each layer.

    Args:
        setup: the run.
        work: seconds of the work that is launched [MoE layers, devices].
    """
    devices = setup.cluster.devices
    reading = max(device.host_sync_s for device in devices)
    if setup.kernels.graphs:
        return np.full(len(work), reading)
    launched = kernels_launched(setup)[0] * max(device.launch_s for device in devices)
    return np.asarray(np.maximum(launched - work.max(axis=1), 0.0) + reading)
