"""What policies may know of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from moesim.policies.base import ClusterView
from moesim.policies.past import Past

if TYPE_CHECKING:
    from moesim.engine.setup import Setup

FloatArray = npt.NDArray[np.float64]


def cluster_view(setup: Setup) -> ClusterView:
    """Describe machine, model and past to policies, which think in expert-parallel ranks."""
    model, parts = setup.model, setup.parallel.expert_tp
    layers = len(model.moe_layers)
    spare = min(device.memory.capacity for device in setup.cluster.devices) - model.resident_bytes
    ranks = setup.cluster.size // parts
    held = model.expert_bytes * layers * model.experts / ranks
    free = int(max(0.0, spare - held) // max(1, model.expert_bytes * layers))
    return ClusterView(
        devices=ranks,
        node_of=setup.cluster.node_of[::parts],
        experts=model.experts,
        top_k=model.top_k,
        expert_bytes=model.expert_bytes,
        token_bytes=model.token_bytes,
        expert_groups=max(1, model.n_group),
        free_expert_slots=free,
        past=_past(setup),
        **_rates(setup),
    )


def _past(setup: Setup) -> Past:
    def pairs() -> tuple[FloatArray, FloatArray]:
        found = setup.routing.affinity()
        return found.together, found.onward

    return Past(setup.routing.windows, pairs)


def _rates(setup: Setup) -> dict[str, Any]:
    """Rates of the machine, as a policy may know them."""
    experts = dict.fromkeys(expert for layer in setup.routed for expert in layer)
    widest = max(experts, key=lambda one: one.flops_per_token)
    devices, shape = setup.cluster.devices, setup.cluster.shape
    rates = np.asarray([device.flops(widest.dtype) for device in devices])
    between = 0.0
    if np.unique(setup.cluster.node_of).size > 1 and shape.inter is not None:
        per_node = max(len(row) for row in shape.nodes)
        between = shape.inter.wire.usable * shape.inter.nics_per_node / per_node
    return {
        "speed": (rates / rates.max())[:: setup.parallel.expert_tp],
        "flops": float(rates.max()),
        "expert_flops": widest.flops_per_token,
        "memory_bandwidth": min(device.memory.bandwidth for device in devices),
        "inside_bandwidth": shape.intra.wire.usable if shape.intra is not None else 0.0,
        "between_bandwidth": between,
        "host_bandwidth": shape.host.link.usable if shape.host is not None else 0.0,
        "hidden": setup.model.hidden,
        "intermediate": widest.intermediate,
    }
