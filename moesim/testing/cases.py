"""Machines, loads and placements on which the contract checks try a policy."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from moesim.policies.base import ClusterView
from moesim.policies.past import Past
from moesim.policies.plan import Placement
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]


def make_view(
    devices: int,
    experts: int,
    *,
    nodes: int = 1,
    groups: int = 1,
    free_expert_slots: int = 1 << 30,
    interleaved: bool = False,
    host_bandwidth: float = 5e10,
    past: Past | None = None,
) -> ClusterView:
    """Describe a small machine, by default one with all the memory it takes and a host.

    ``interleaved`` deals the devices to the nodes in turn instead of in blocks.
    """
    index = np.arange(devices, dtype=np.int64)
    return ClusterView(
        devices=devices,
        node_of=index % nodes if interleaved else index * nodes // devices,
        experts=experts,
        top_k=1,
        expert_bytes=1 << 20,
        token_bytes=1 << 10,
        expert_groups=groups,
        free_expert_slots=free_expert_slots,
        past=past,
        between_bandwidth=2e10 if nodes > 1 else 0.0,
        host_bandwidth=host_bandwidth,
    )


def make_load(counts: npt.ArrayLike, devices: int) -> Load:
    """Make the load of [layers, sources, experts] copies, with tokens to match the first layer."""
    array = np.asarray(counts, dtype=np.int64)
    sent = array[0].sum(axis=1) if array.shape[1] == devices else np.arange(1, devices + 1)
    return Load(array, np.asarray(sent, dtype=np.int64))


def make_placement(view: ClusterView, layers: int, *, replicas: int = 0, seed: int = 0) -> Placement:
    """Deal experts, and random further copies, to the devices in a random order, -1 as padding."""
    rng = np.random.default_rng(seed)
    slots = -(-(view.experts + replicas) // view.devices) + (1 if replicas else 0)
    table = np.full((layers, view.devices * slots), -1, dtype=np.int64)
    for row in table:
        held = np.concatenate([np.arange(view.experts), rng.integers(0, view.experts, replicas)])
        row[rng.permutation(row.size)[: held.size]] = held
    return Placement(table.reshape(layers, view.devices, slots), view.experts)


@dataclass(frozen=True)
class PlacementCase:
    """Statistics on a machine.

    Attributes:
        name: what is special, for messages.
        statistics: past copies per expert, int64 [layers, experts].
        view: the machine.
        may_refuse: whether a policy may refuse with an InputError (little memory, uneven nodes).
    """

    name: str
    statistics: IntArray
    view: ClusterView
    may_refuse: bool = False


@dataclass(frozen=True)
class DispatchCase:
    """A load and a placement on a machine.

    Attributes:
        name: what is special, for messages.
        load: copies per source and expert.
        placement: where experts stand.
        view: the machine.
        may_refuse: whether a policy may refuse with an InputError (no host).
    """

    name: str
    load: Load
    placement: Placement
    view: ClusterView
    may_refuse: bool = False


def _skewed(rng: np.random.Generator, shape: tuple[int, ...], scale: int) -> IntArray:
    popularity = 1.0 / np.arange(1, shape[-1] + 1)
    return rng.poisson(scale * rng.permutation(popularity), size=shape).astype(np.int64)


def placement_cases() -> list[PlacementCase]:
    """Return the cases that every placement policy must handle."""
    rng = np.random.default_rng(20260101)
    one_hot = np.zeros((2, 8), dtype=np.int64)
    one_hot[:, 3] = 1000
    skewed = _skewed(rng, (3, 16), 200)
    plain, two = make_view(4, 16), make_view(4, 16, nodes=2, groups=4)
    return [
        PlacementCase("skewed loads", skewed, plain),
        PlacementCase("two nodes", skewed, two, may_refuse=True),
        PlacementCase(
            "nodes of interleaved devices",
            skewed,
            make_view(4, 16, nodes=2, interleaved=True),
            may_refuse=True,
        ),
        PlacementCase("nodes of different sizes", skewed, make_view(5, 16, nodes=2), may_refuse=True),
        PlacementCase("devices that do not divide the experts", skewed, make_view(5, 16)),
        PlacementCase("no statistics yet (all zero)", np.zeros((2, 8), dtype=np.int64), make_view(4, 8)),
        PlacementCase("all tokens to one expert", one_hot, make_view(4, 8)),
        PlacementCase("one device", skewed, make_view(1, 16)),
        PlacementCase("one expert", np.full((2, 1), 7, dtype=np.int64), make_view(1, 1)),
        PlacementCase("one expert, several devices", np.full((2, 1), 7, dtype=np.int64), make_view(3, 1)),
        PlacementCase("more devices than experts", skewed, make_view(24, 16)),
        PlacementCase("loads above 2^31", skewed << 32, plain),
        PlacementCase("no memory to spare", skewed, make_view(4, 16, free_expert_slots=0), may_refuse=True),
        PlacementCase(
            "memory for one more expert", skewed, make_view(4, 16, free_expert_slots=1), may_refuse=True
        ),
        PlacementCase("a past of recorded tokens", skewed, _remembering(plain, skewed)),
        PlacementCase("a past and two nodes", skewed, _remembering(two, skewed), may_refuse=True),
        PlacementCase("a past of other layers", skewed[:1], _remembering(plain, skewed)),
        PlacementCase("unlike devices", skewed, replace(plain, speed=np.asarray([1.0, 0.5, 1.0, 0.25]))),
    ]


@dataclass(frozen=True, eq=False)
class _Windows:
    """Windows of a past as plain data, so that it can be compared and pickled."""

    counts: IntArray

    def __call__(self, count: int) -> IntArray:
        return Past.of_counts(self.counts).windows(count)


@dataclass(frozen=True, eq=False)
class _Pairs:
    """Pairs of a past as plain data."""

    together: npt.NDArray[np.float64]
    onward: npt.NDArray[np.float64]

    def __call__(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        return self.together, self.onward


def _remembering(view: ClusterView, counts: IntArray) -> ClusterView:
    """Give a machine a past in which some experts follow others and some share tokens."""
    layers, experts = counts.shape
    rng = np.random.default_rng(20260103)
    together = rng.integers(0, 50, (layers, experts, experts)).astype(np.float64)
    together += together.transpose(0, 2, 1)
    together[:, np.arange(experts), np.arange(experts)] = 0.0
    onward = rng.integers(0, 50, (layers - 1, experts, experts)).astype(np.float64)
    past = Past(_Windows(counts), _Pairs(together, onward))
    return replace(view, top_k=2, past=past, inside_bandwidth=4e11, between_bandwidth=5e10)


def dispatch_cases() -> list[DispatchCase]:
    """Return the cases that every dispatch policy must handle."""
    rng = np.random.default_rng(20260102)
    cases: list[DispatchCase] = []

    def add(
        name: str,
        counts: npt.ArrayLike,
        view: ClusterView,
        replicas: int = 0,
        seed: int = 0,
        may_refuse: bool = False,
    ) -> None:
        load = make_load(counts, view.devices)
        placement = make_placement(view, load.layers, replicas=replicas, seed=seed)
        cases.append(DispatchCase(name, load, placement, view, may_refuse))

    plain, two = make_view(4, 8), make_view(4, 8, nodes=2)
    one_hot = np.zeros((2, 4, 8), dtype=np.int64)
    one_hot[:, :, 5] = 4000
    hot = _skewed(rng, (3, 4, 8), 20) + 3 * one_hot[:1]
    add("an empty batch", np.zeros((2, 4, 8)), plain)
    add("an empty batch of totals", np.zeros((2, 1, 8)), plain)
    add("an empty batch with replicas", np.zeros((2, 4, 8)), two, 4)
    add("one device", _skewed(rng, (2, 1, 8), 50), make_view(1, 8))
    add("one expert", np.full((2, 4, 1), 9), make_view(4, 1))
    add("one expert on one device", np.full((1, 1, 1), 9), make_view(1, 1))
    add("all tokens to one expert", one_hot, plain)
    add("all tokens to one replicated expert", one_hot, two, 8, 1)
    add("totals, all to one expert", one_hot.sum(axis=1, keepdims=True), plain)
    add("skewed loads", _skewed(rng, (3, 4, 8), 40), plain)
    add("one expert far above the others", hot, plain, 0, 2)
    add("replicas on two nodes", hot, two, 6, 3)
    add("totals with replicas", _skewed(rng, (3, 1, 8), 5000), two, 6, 4)
    add("tokens on one source only", np.pad(_skewed(rng, (2, 1, 8), 900), ((0, 0), (0, 3), (0, 0))), plain)
    add("devices that do not divide the experts", _skewed(rng, (2, 5, 8), 60), make_view(5, 8, nodes=2), 3)
    add("more devices than experts", _skewed(rng, (2, 9, 4), 300), make_view(9, 4, nodes=3))
    past = Past.of_counts(_skewed(rng, (3, 8), 400))
    add("a past unlike the load", hot, make_view(4, 8, nodes=2, past=past), 4, 5)
    add("a past and totals", hot.sum(axis=1, keepdims=True), make_view(4, 8, past=past), 0, 6)
    quiet = Past.of_counts(np.zeros((3, 8), dtype=np.int64))
    add("a past without tokens", hot, make_view(4, 8, past=quiet), 2, 7)
    add("no host", hot, make_view(4, 8, host_bandwidth=0.0), 2, 8, may_refuse=True)
    return cases
