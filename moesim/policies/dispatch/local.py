"""Plans in which devices keep their own copies of some experts, and the rest goes to where experts stand."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.hardware.traffic import Traffic
from moesim.policies.base import ClusterView
from moesim.policies.dispatch import replica_choice
from moesim.policies.dispatch.fitting import fitted
from moesim.policies.dispatch.placement_index import PlacementIndex, columns_per_source, index_for
from moesim.policies.dispatch.standard import Standard
from moesim.policies.plan import Assignments, Placement
from moesim.routing.load import Load

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]


def copies_by_source(load: Load) -> IntArray | FloatArray:
    """Return copies of each source, [layers, devices, experts]; expected ones where only totals are known."""
    if not load.is_pooled:
        return load.counts
    return load.share[:, np.newaxis] * load.counts.astype(np.float64)


def keep_local(
    load: Load, placement: Placement, view: ClusterView, keeps: BoolArray
) -> tuple[Assignments, Traffic]:
    """Let devices compute their own copies of experts; all others go to the experts' slots, evenly.

    Args:
        load: the load.
        placement: where experts stand.
        view: the machine.
        keeps: whether a device computes its own copies, bool [layers, devices, experts]; it must hold the
            expert or be sent its weights.
    """
    if not keeps.any():
        plan = Standard().plan(load, placement, view)
        return plan.assignments, plan.traffic
    index = index_for(load, placement)
    layers, devices, experts = load.layers, load.devices, load.experts
    if load.is_pooled:
        return _keep_expected(load, index, keeps)
    layer, device, expert = np.nonzero(keeps & (load.counts > 0))
    local = load.counts[layer, device, expert]
    columns = columns_per_source(load).copy()
    columns[device, layer * experts + expert] = 0
    split = replica_choice.even(index, columns)
    rows = index.rows_of(layer, device, expert)
    held = rows >= 0
    split[device[held], rows[held]] += local[held]
    pairs = index.sum_per_device(split).reshape(devices, layers, devices).transpose(1, 0, 2).copy()
    layer, device, expert, local = (column[~held] for column in (layer, device, expert, local))
    np.add.at(pairs, (layer, device, device), local)
    assignments = _joined(index, split.sum(axis=0), layer, device, expert, local)
    return assignments, Traffic.of_pairs(pairs)


def _keep_expected(load: Load, index: PlacementIndex, keeps: BoolArray) -> tuple[Assignments, Traffic]:
    """Do the same with totals, as if every source had its share of every expert."""
    layers, devices, experts = load.layers, load.devices, load.experts
    totals = load.per_expert.ravel()
    layer, device, expert = np.nonzero(keeps & (load.counts > 0) & (load.share > 0)[:, np.newaxis])
    key = layer * experts + expert
    sent = np.repeat(load.share[:, np.newaxis], totals.size, axis=1)
    sent[device, key] = 0.0
    sent *= totals
    local = load.share[device] * totals[key]
    split = np.take(sent, index.key, axis=1) * (index.slots / index.replicas)
    # Experts that nobody keeps are dealt in whole copies, as in standard dispatch.
    kept = np.zeros(totals.size, dtype=bool)
    kept[key] = True
    dealt = np.flatnonzero(~kept[index.key])
    split[:, dealt] = load.share[:, np.newaxis] * replica_choice.even_totals(index, totals)[dealt]
    rows = index.rows_of(layer, device, expert)
    held = rows >= 0
    split[device[held], rows[held]] += local[held]
    pairs = index.sum_per_device(split).reshape(devices, layers, devices).transpose(1, 0, 2).copy()
    layer, device, expert, key, local = (column[~held] for column in (layer, device, expert, key, local))
    np.add.at(pairs, (layer, device, device), local)
    ideal, group = np.concatenate([split.sum(axis=0), local]), np.concatenate([index.key, key])
    copies = replica_choice.largest_remainder(ideal, group, totals)
    here = index.key.size
    assignments = _joined(index, copies[:here], layer, device, expert, copies[here:])
    inbound = assignments.per_device(layers, devices).astype(np.float64)
    return assignments, Traffic.of_pairs(fitted(pairs, inbound))


def _joined(
    index: PlacementIndex,
    copies: IntArray,
    layer: IntArray,
    device: IntArray,
    expert: IntArray,
    local: IntArray,
) -> Assignments:
    """Join what slots compute with what devices compute whose experts stand elsewhere."""
    some = local > 0
    return Assignments(
        np.concatenate([index.layer, layer[some]]),
        np.concatenate([index.expert, expert[some]]),
        np.concatenate([index.device, device[some]]),
        np.concatenate([copies, local[some]]),
    )
