"""How a router's group limit thins out the nodes and devices that a token reaches.

DeepSeek-V3 lets a token take experts from 4 of 8 groups. That spares traffic only where a group's experts
stand close together, so the placement is asked layer by layer; a plan that moves work elsewhere loses it.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.engine.setup import Setup
from moesim.hardware.distinct import spared
from moesim.policies.plan import Placement

Array = npt.NDArray[np.float64]


def group_spared(setup: Setup) -> tuple[Array, Array]:
    """Return the shares of devices and of nodes that are left under the limit [MoE layers] each."""
    model, node_of = setup.model, setup.cluster.node_of
    layers = len(setup.moe_rows)
    groups, limit, experts = model.n_group, model.topk_group, model.experts
    if not 0 < limit < groups or any(len(row) != experts for row in setup.routed):
        return np.ones(layers), np.ones(layers)
    left = []
    for units in (np.arange(setup.cluster.size), np.unique(node_of, return_inverse=True)[1]):
        count = int(units.max()) + 1
        share = spared(count, experts, model.top_k, groups, limit)
        close = _widest_group(setup.placement, units, groups) <= -(-count // groups)
        left.append(np.where(close, share, 1.0))
    return left[0], left[1]


def _widest_group(placement: Placement, unit_of: npt.NDArray[np.int64], groups: int) -> npt.NDArray[np.int64]:
    """Return over how many units the experts of the most scattered group are spread, int64 [layers].

    A group that fills units only in part touches one more; that one is not counted.
    """
    layer, device, slot = np.nonzero(placement.slots >= 0)
    group = placement.slots[layer, device, slot] * groups // placement.experts
    units = int(unit_of.max()) + 1
    present = np.zeros((placement.layers, groups, units), dtype=np.bool_)
    present[layer, group, unit_of[device]] = True
    uneven = int(units > groups and units % groups != 0)
    return np.asarray(present.sum(axis=2).max(axis=1) - uneven)
