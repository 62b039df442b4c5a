"""The lower bound of a step: the best that any policy could do on this hardware.

No policy can beat it, whatever it places, copies or moves:

* what each device does by itself (attention, dense parts, gate, permute) does not depend on the policy;
* experts: the busiest device takes at least the mean over devices, and over all devices the arithmetic is
  at least that of the copies without tile rounding, the traffic at least every activated expert's weights
  once plus the operands of the copies;
* network: a copy stays home only if its device holds the expert. A device can hold the experts that its
  memory has room for; it would keep those it needs most. For every other (device, expert) pair either
  the tokens travel there and back or the weights travel once, and all of it enters devices through their
  links.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import numpy.typing as npt

from moesim.engine.own_costs import OwnCosts
from moesim.engine.setup import Setup
from moesim.hardware.spec import DTYPE_BYTES
from moesim.model.spec import ExpertSpec
from moesim.routing.load import Load

Array = npt.NDArray[np.float64]


class BoundPricer:
    """Bounds the steps of one setup.

    Independent of the policy, unless its placement fills more slots than memory has room for: such a
    run ends out of memory, and its bound grants it the slots it took.
    """

    def __init__(self, setup: Setup, own: OwnCosts) -> None:
        self.setup = setup
        devices = setup.cluster.devices
        activation = DTYPE_BYTES[setup.model.activation_dtype]
        self.memory_rate = float(sum(d.memory.bandwidth * d.memory_efficiency for d in devices))
        # Seconds of the whole cluster: arithmetic, operands and passes per copy, weights once.
        prices: dict[ExpertSpec, tuple[float, float, float, float]] = {}
        style, hidden = setup.kernels, setup.model.hidden
        for expert in {expert for experts in setup.routed for expert in experts}:
            rate = sum(d.flops(expert.dtype) * d.gemm_efficiency for d in devices)
            width = style.activation_passes * expert.intermediate + style.expert_passes * hidden
            moved = sum(g.n + g.k for g in expert.gemms) * activation
            amounts = (moved, width * activation, float(expert.bytes)) if expert.gemms else (0.0, 0.0, 0.0)
            operands, passes, weights = (amount / self.memory_rate for amount in amounts)
            prices[expert] = (expert.flops_per_token / rate, operands, passes, weights)
        table = np.asarray([[prices[expert] for expert in experts] for experts in setup.routed])
        self.arithmetic, self.operands, self.passes, self.weights = np.moveaxis(table, 2, 0)
        self.expert_bytes = setup.expert_bytes
        self.moe_rows = setup.moe_rows
        self.fixed = _own_bound(own, setup.moe_rows)
        capacity = np.asarray([d.memory.capacity for d in devices], dtype=np.float64)
        smallest = float(self.expert_bytes.min(initial=np.inf, where=self.expert_bytes > 0))
        room = np.maximum(capacity - (0 if setup.workload.moe_only else setup.model.resident_bytes), 0)
        fits = np.floor(room / smallest) if np.isfinite(smallest) else np.full(capacity.shape, np.inf)
        self.room = np.maximum(fits, setup.placement.experts_per_device.sum(axis=0))
        graph = setup.cluster.graph
        entries: Iterable[tuple[str, str, float]] = graph.in_edges(
            setup.cluster.device_nodes, data="bandwidth"
        )
        self.ingress = float(sum(bandwidth for _, _, bandwidth in entries))
        # Where tokens are sent once per device or node, one message may carry all of a token's copies.
        shared_by = 1 if setup.kernels.sends == "copies" else setup.model.top_k
        self.pair_bytes = float(setup.model.token_bytes) * (1.0 + setup.kernels.dispatch_width) / shared_by

    def layers(self, load: Load) -> Array:
        """Return the bound of every transformer layer, network apart [layers]."""
        copies = load.per_expert.astype(np.float64)
        arithmetic = (copies * self.arithmetic).sum(axis=1)
        traffic = (copies * self.operands + (copies > 0) * self.weights).sum(axis=1)
        bound = self.fixed.copy()
        bound[self.moe_rows] += np.maximum(arithmetic, traffic) + (copies * self.passes).sum(axis=1)
        return bound

    def network(self, load: Load) -> float:
        """Return the least time in which all that must travel in a step can enter devices (s).

        It bounds the sum over layers only: a policy may keep other experts at home than the ones
        counted here.
        """
        if self.setup.cluster.size == 1 or float(self.room.min()) >= load.layers * load.experts:
            return 0.0
        total = 0.0
        if load.is_pooled:
            pooled = load.counts[:, 0, :].astype(np.float64)
            kinds, members = np.unique(np.stack([load.share, self.room]), axis=1, return_counts=True)
            for share, room, count in zip(kinds[0], kinds[1], members, strict=True):
                total += int(count) * self._must_travel(pooled * share, room)
        else:
            for source in range(load.devices):
                total += self._must_travel(load.counts[:, source, :].astype(np.float64), self.room[source])
        return total / self.ingress

    def _must_travel(self, copies: Array, room: float) -> float:
        """Return the bytes that one source cannot keep at home."""
        cost = np.minimum(copies * self.pair_bytes, self.expert_bytes).ravel()
        if room >= cost.size:
            return 0.0
        return float(np.partition(cost, cost.size - int(room) - 1)[: cost.size - int(room)].sum())


def _own_bound(own: OwnCosts, moe_rows: npt.NDArray[np.int64]) -> Array:
    """Return what devices must do by themselves per transformer layer [layers].

    Between two collectives all wait for the slowest device. A layer is booked with its mean over
    devices, and the wait that cannot be avoided with the layer that ends the segment.
    """
    before, after = own.segments(moe_rows)
    fixed = (own.attention + own.dense + own.gate + own.permute + own.unpermute).mean(axis=1)
    fixed[moe_rows] += before.max(axis=1) - before.mean(axis=1)
    fixed[-1] += after.max() - after.mean()
    return np.asarray(fixed)
