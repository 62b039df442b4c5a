"""The lower bound of a step: the best that any policy could do on this hardware.

No policy can beat it, whatever it places, copies or moves (one that drops copies or gives them to other
experts is bound by what is left of them):

* what each device does by itself (attention, dense parts, gate, permute) does not depend on the policy;
* experts: the busiest device takes at least any weighted mean over devices, and over all devices the
  arithmetic is at least that of the copies without tile rounding, the traffic at least every activated
  expert's weights once plus the operands of the copies. In the mean each piece of work costs what it costs
  where it is cheapest; of several weightings (one if all devices are equal) the highest bound counts;
* network: a copy stays home only if its device holds the expert. A device can hold the experts that its
  memory has room for; it would keep those it needs most. For every other (device, expert) pair either
  the tokens travel there and back or the weights travel once, and all of it enters devices through their
  links.

A step of a forward and a backward pass bounds the three products of every matrix and two round trips of
tokens; weights that replace them travel at least once.

Where communication and computation overlap, either can hide the other and the wait between devices too: the
bound of a step is the larger of both, and devices meet only at its end.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.engine.own_costs import OwnCosts
from moesim.engine.parallel import Parallelism
from moesim.engine.setup import Setup
from moesim.hardware.analytic import Floors
from moesim.hardware.spec import DTYPE_BYTES, Device
from moesim.model.spec import ExpertSpec
from moesim.policies.plan import Placement
from moesim.routing.load import Load

Array = npt.NDArray[np.float64]


class BoundPricer:
    """Bounds the steps of one setup.

    Independent of the policy, unless its placement fills more slots than memory has room for: such a
    run ends out of memory, and its bound grants it the slots it took.
    """

    def __init__(self, setup: Setup, own: Sequence[OwnCosts]) -> None:
        self.setup = setup
        self.overlaps = setup.overlap.kind != "none"
        devices = setup.cluster.devices
        distinct = dict.fromkeys(expert for experts in setup.routed for expert in experts)
        prices = {expert: _Price.of(setup, expert) for expert in distinct}
        # Seconds under each weighting [weightings, MoE layers, experts].
        tables = []
        parts = setup.parallel.expert_tp  # devices that each do their share of an expert's work
        weightings = _weightings(setup, prices, self.overlaps)
        for share in weightings:
            cheapest = {
                expert: tuple(parts * part for part in price.cheapest(share))
                for expert, price in prices.items()
            }
            tables.append([[cheapest[expert] for expert in experts] for experts in setup.routed])
        self.arithmetic, self.traffic, self.weights = np.moveaxis(np.asarray(tables), 3, 0)
        # Gradients of inputs and those of weights each take what the forward pass of experts takes at least.
        self.passes = float(setup.overlap.passes)
        self.expert_bytes = setup.expert_bytes
        self.moe_rows = setup.moe_rows
        total = np.sum([costs.total for costs in own], axis=0)
        if self.overlaps:
            self.fixed = np.stack([total @ share for share in weightings])
        else:
            self.fixed = _own_bound(own[0], setup.moe_rows)
        capacity = np.asarray([d.memory.capacity for d in devices], dtype=np.float64)
        smallest = float(self.expert_bytes.min(initial=np.inf, where=self.expert_bytes > 0))
        room = np.maximum(capacity - (0 if setup.workload.moe_only else setup.model.resident_bytes), 0)
        fits = np.floor(room / smallest) if np.isfinite(smallest) else np.full(capacity.shape, np.inf)
        self.fits = fits
        self.place(setup.placement)
        graph = setup.cluster.graph
        entries: Iterable[tuple[str, str, float]] = graph.in_edges(
            setup.cluster.device_nodes, data="bandwidth"
        )
        self.ingress = float(sum(bandwidth for _, _, bandwidth in entries))
        # Tensor-parallel devices may have the tokens already.
        self.shared_tokens = setup.parallel != Parallelism()
        # Where tokens are sent once per device or node, one message may carry all of a token's copies.
        alone = setup.kernels.sends == "copies" and not setup.gathers
        shared_by = 1 if alone else setup.model.top_k
        # Sums of results may be made on the way.
        both_ways = setup.kernels.dispatch_width + (0.0 if setup.gathers else 1.0)
        trips = 2.0 if setup.overlap.trains else 1.0  # forward and backward
        self.pair_bytes = float(setup.model.token_bytes) * both_ways * trips / shared_by
        self.known = setup.bounds

    def of_step(
        self, step: int, load: Load, computed: npt.NDArray[np.int64] | None = None
    ) -> tuple[Array, float]:
        """Return ``step(load, computed)``, worked out once for all runs that share their bounds.

        Args:
            step: number of the step.
            load: its load, the same in all of these runs.
            computed: what experts compute instead; such a bound is the run's own.
        """
        if self.known is None or computed is not None:
            return self.step(load, computed)
        key = (step, self.room.tobytes())
        if key not in self.known:
            self.known[key] = self.step(load)
        layers, whole = self.known[key]
        return layers.copy(), whole

    def place(self, placement: Placement) -> None:
        """Take over another placement."""
        self.room = np.maximum(self.fits, placement.experts_per_device.sum(axis=0))

    def step(self, load: Load, computed: npt.NDArray[np.int64] | None = None) -> tuple[Array, float]:
        """Return the bound of every transformer layer, network apart [layers], and that of the step (s).

        Args:
            load: what the routing asks for.
            computed: what experts compute instead where a policy drops copies or moves them to other experts,
                int64 [MoE layers, experts]; what must travel is not known then.
        """
        copies = (load.per_expert if computed is None else computed).astype(np.float64)
        network = self.network(load) if computed is None else 0.0
        arithmetic = (copies * self.arithmetic).sum(axis=2)
        traffic = (copies * self.traffic + (copies > 0) * self.weights).sum(axis=2)
        experts = self.passes * np.maximum(arithmetic, traffic)
        bound = self.fixed.copy()
        if not self.overlaps:
            bound[self.moe_rows] += experts.max(axis=0)
            return bound, float(bound.sum()) + network
        # A device may be ahead in one layer and behind in another, so that one weighting holds for the step.
        # Layers are booked with their mean over devices.
        bound[:, self.moe_rows] += experts
        return bound[0], max(float(bound.sum(axis=1).max()), network)

    def network(self, load: Load) -> float:
        """Return the least time in which all that must travel in a step can enter devices (s).

        It bounds the sum over layers only: a policy may keep other experts at home than the ones
        counted here.
        """
        if (
            self.setup.cluster.size == 1
            or self.shared_tokens
            or float(self.room.min()) >= load.layers * load.experts
        ):
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


@dataclass(frozen=True, eq=False)
class _Price:
    """Seconds that one expert takes on each device by itself [devices].

    Attributes:
        flops: arithmetic of a copy.
        operands: reading and writing what its GEMMs take and give.
        passes: memory passes of a copy outside the GEMMs.
        weights: reading the expert once.
    """

    flops: Array
    operands: Array
    passes: Array
    weights: Array

    @classmethod
    def of(cls, setup: Setup, expert: ExpertSpec) -> _Price:
        devices, style = setup.cluster.devices, setup.kernels
        if not expert.gemms:
            return cls(*[np.zeros(len(devices))] * 4)
        floors = [_floors(setup, device, expert) for device in devices]
        rate = np.asarray([floor.flops for floor in floors])
        memory = np.asarray([floor.weights for floor in floors])
        passing = np.asarray([floor.passes for floor in floors])
        activation = DTYPE_BYTES[setup.model.activation_dtype]
        width = style.activation_passes * expert.intermediate + style.expert_passes * setup.model.hidden
        touched = sum(gemm.n + gemm.k for gemm in expert.gemms) * activation
        # Biases are stored, but no GEMM reads them.
        read = sum(gemm.weights for gemm in expert.gemms) * expert.bytes / expert.params
        nothing = np.zeros(len(devices))
        if style.grouped:
            # A fused call passes at least its inputs and outputs, apart from loading weights.
            return cls(
                expert.flops_per_token / rate,
                nothing,
                (width + 2.0 * expert.hidden) * activation / np.maximum(passing, memory),
                read / memory,
            )
        return cls(
            expert.flops_per_token / rate, touched / memory, width * activation / passing, read / memory
        )

    def cheapest(self, share: Array) -> tuple[float, float, float]:
        """Return arithmetic and traffic of a copy, passes included, and weights, where each costs least."""
        return (
            float((share * (self.flops + self.passes)).min()),
            float((share * (self.operands + self.passes)).min()),
            float((share * self.weights).min()),
        )


def _floors(setup: Setup, device: Device, expert: ExpertSpec) -> Floors:
    prices = setup.prices[device]
    if setup.kernels.grouped:
        return prices.fused_floors(expert.dtype)
    return prices.gemm_floors(expert.dtype)


def _weightings(setup: Setup, prices: Mapping[ExpertSpec, _Price], even: bool) -> list[Array]:
    """Return weights of the devices that each add up to 1, the best ones for one bottleneck each [devices].

    That is memory, and for each number format the arithmetic of the widest expert; before them equal
    weights, if ``even`` asks for it.
    """
    equal = np.full(setup.cluster.size, 1.0 / setup.cluster.size)
    if setup.cluster.homogeneous:
        return [equal]
    rates = [np.asarray([device.memory.bandwidth for device in setup.cluster.devices])]
    widest: dict[str, ExpertSpec] = {}
    for expert in prices:
        known = widest.get(expert.dtype)
        if expert.gemms and (known is None or expert.flops_per_token > known.flops_per_token):
            widest[expert.dtype] = expert
    rates += [1.0 / (prices[expert].flops + prices[expert].passes) for expert in widest.values()]
    return [equal] * even + [rate / rate.sum() for rate in rates]


def _own_bound(own: OwnCosts, moe_rows: npt.NDArray[np.int64]) -> Array:
    """Return what devices must do by themselves per transformer layer [layers].

    Between two collectives all wait for the slowest device. A layer is booked with its mean over
    devices, and the wait that cannot be avoided with the layer that ends the segment.
    """
    before, after = own.segments(moe_rows)
    fixed = own.total.mean(axis=1)
    fixed[moe_rows] += before.max(axis=1) - before.mean(axis=1)
    fixed[-1] += after.max() - after.mean()
    return np.asarray(fixed)
