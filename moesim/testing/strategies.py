"""Hypothesis strategies for machines, loads and placements (needs the ``hypothesis`` package)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import strategies as st

from moesim.policies.base import ClusterView
from moesim.policies.past import Past
from moesim.policies.plan import Placement
from moesim.routing.load import Load
from moesim.testing.cases import DispatchCase, PlacementCase, make_placement, make_view


@st.composite
def cluster_views(draw: st.DrawFn, max_devices: int = 8, max_experts: int = 16) -> ClusterView:
    """Draw a machine of one to ``max_devices`` devices in one or more nodes."""
    devices = draw(st.integers(1, max_devices))
    experts = draw(st.integers(1, max_experts))
    nodes = draw(st.integers(1, devices))
    groups = draw(st.sampled_from([group for group in (1, 2, 4, 8) if experts % group == 0]))
    return make_view(devices, experts, nodes=nodes, groups=groups, interleaved=draw(st.booleans()))


@st.composite
def loads(draw: st.DrawFn, view: ClusterView | None = None, layers: int | None = None) -> Load:
    """Draw a load for a machine: empty, even or skewed, per source or as totals."""
    machine = draw(cluster_views()) if view is None else view
    depth = draw(st.integers(1, 3)) if layers is None else layers
    sources = draw(st.sampled_from([1, machine.devices]))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    largest = draw(st.sampled_from([0, 1, 3, 50, 5000]))
    counts = rng.integers(0, largest + 1, size=(depth, sources, machine.experts))
    if draw(st.booleans()):
        counts[..., draw(st.integers(0, machine.experts - 1))] *= 20
    tokens = rng.integers(0, 100, size=machine.devices)
    return Load(counts.astype(np.int64), tokens.astype(np.int64))


@st.composite
def placements(draw: st.DrawFn, view: ClusterView | None = None, layers: int | None = None) -> Placement:
    """Draw a placement on a machine, with replicas, repeats on a device and empty slots."""
    machine = draw(cluster_views()) if view is None else view
    depth = draw(st.integers(1, 3)) if layers is None else layers
    seed = draw(st.integers(0, 2**32 - 1))
    return make_placement(machine, depth, replicas=draw(st.integers(0, 2 * machine.experts)), seed=seed)


@st.composite
def dispatch_inputs(draw: st.DrawFn) -> DispatchCase:
    """Draw a load and a placement that fit each other."""
    view, layers = draw(cluster_views()), draw(st.integers(1, 3))
    if draw(st.booleans()):
        view = replace(view, past=Past.of_counts(draw(loads(view, layers)).per_expert))
    return DispatchCase("a drawn case", draw(loads(view, layers)), draw(placements(view, layers)), view)


@st.composite
def placement_inputs(draw: st.DrawFn) -> PlacementCase:
    """Draw statistics for a machine."""
    view = draw(cluster_views())
    statistics = draw(loads(view)).per_expert
    return PlacementCase("a drawn case", statistics, view)
