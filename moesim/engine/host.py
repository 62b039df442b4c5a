"""What the host adds to a step: kernels it launches too slowly, and planning.

Without graphs the host launches every kernel, ahead of the device where it can. It can until the results of a
layer are read back: a style with such syncs launches the kernels of each layer anew. Otherwise the head start
that long kernels give carries over from layer to layer, and the device waits only once the host is behind.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.engine.exchange import ExchangeCosts
from moesim.engine.expert_costs import ExpertCosts
from moesim.engine.own_work import OwnWork
from moesim.engine.passes import LAUNCHES
from moesim.engine.setup import Setup

Array = npt.NDArray[np.float64]

HOST_CAUSES: Final = ("launch", "planning")
"""Causes of time between own work and dispatch in which a device waits for its host, in order."""

ATTENTION_OPS: Final = 12
"""Kernels launched per attention block: norms, projections, rope, core, residual."""
MLP_OPS: Final = 3
"""Kernels of a dense or shared MLP: two products and the activation."""


def kernels_launched(setup: Setup, backward: bool = False) -> Array:
    """Return the kernels of each MoE layer, with those of the dense layers that run since the one before.

    Args:
        setup: the tokens that are run together.
        backward: count those of the backward pass.

    Returns:
        Kernels before dispatch, and of fused experts [2, MoE layers].
    """
    counts = np.zeros(len(setup.moe_rows) + 1)
    own = np.zeros(len(setup.layers))
    for row, layer in enumerate(setup.layers):
        if not setup.workload.moe_only:
            own[row] += ATTENTION_OPS * (layer.attention.kind != "none")
            own[row] += MLP_OPS * (bool(layer.dense_intermediate) + len(layer.shared))
        own[row] += setup.kernels.layer_ops * layer.is_moe
    np.add.at(counts, np.searchsorted(setup.moe_rows, np.arange(len(own))), own)
    fused = setup.kernels.expert_ops if setup.kernels.grouped else 0
    if backward:
        return LAUNCHES * np.stack([counts[1:], np.full(len(counts) - 1, float(fused))])
    return np.stack([counts[:-1], np.full(len(counts) - 1, float(fused))])


def launch_waits(setup: Setup, own: OwnWork, experts: ExpertCosts, exchange: ExchangeCosts) -> Array:
    """Return how long devices wait for kernels to be launched, [MoE layers].

    Args:
        setup: the tokens that are run together.
        own: what devices do by themselves.
        experts: what their experts take; one after another, these hold their own launches.
        exchange: what the network takes.
    """
    kernels, layers = setup.kernels, len(setup.moe_rows)
    if kernels.graphs or not setup.tokens.any():
        return np.zeros(layers)
    each = max(device.launch_s for device in setup.cluster.devices)
    before, fused = kernels_launched(setup, own.backward) * each
    network = exchange.dispatch + exchange.weight_move + exchange.combine
    if own.backward:
        work = own.before[1:] + own.own_weights[1:] + own.shared + experts.seconds + experts.weights
        return _behind(before + fused, work.max(axis=1) + network, slice(None, None, -1))
    work = own.first[:-1] + own.before[:-1] + own.shared
    if kernels.layer_syncs or kernels.expert_syncs:
        reading = kernels.layer_syncs * max(device.host_sync_s for device in setup.cluster.devices)
        return np.asarray(np.maximum(before - np.maximum(work.max(axis=1) - reading, 0.0), 0.0))
    return _behind(before + fused, (work + experts.seconds).max(axis=1) + network)


def _behind(launched: Array, busy: Array, order: slice = slice(None)) -> Array:
    """Return how much further the host falls behind in each layer [MoE layers].

    Args:
        launched: time to launch the kernels of each layer.
        busy: time that the device takes for it.
        order: in which order layers run.
    """
    late = np.cumsum(launched[order]) - np.cumsum(busy[order])
    behind = np.maximum(np.maximum.accumulate(late), 0.0)
    return np.diff(behind, prepend=0.0)[order]
