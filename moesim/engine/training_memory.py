"""What training keeps in memory beside weights: gradients, and activations until the backward pass.

Gradients of all weights stand all the time in 4 bytes each, because many micro-batches add to them (FP32,
as in DeepSeek-V3's report, section 3.3.3). Activations of one micro-batch are kept: what the forward pass
adds layer by layer, the backward pass of the other micro-batch frees. They are, in the format of
activations, the inputs of every matrix product and norm, what softmax attention reads, and what the gates
of feed-forward layers and experts read; nothing is computed anew to spare them. Routed experts keep theirs
for every copy where it is computed.

The optimizer's state and the other micro-batches that a pipeline has in flight are not counted.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.engine.setup import Setup
from moesim.hardware.spec import DTYPE_BYTES
from moesim.model.expert import Gemm
from moesim.model.spec import AttentionSpec, LayerSpec
from moesim.policies.plan import Assignments, Placement

Array = npt.NDArray[np.float64]

GRADIENT_BYTES: Final = 4
"""Bytes of the gradient of one parameter."""


def gradient_bytes(setup: Setup, placement: Placement) -> Array:
    """Return the bytes of the gradients of all weights that devices hold [devices]."""
    model = setup.model
    resident = 0
    if not setup.workload.moe_only:
        routed = sum(expert.params for layer in model.layers for expert in layer.exchanged)
        resident = model.total_params - routed
    layer, device, slot = np.nonzero(placement.slots >= 0)
    held = setup.expert_params[layer, placement.slots[layer, device, slot]]
    experts = np.bincount(device, weights=held, minlength=placement.devices)
    return np.asarray(GRADIENT_BYTES * (experts + resident), dtype=np.float64)


class KeptActivations:
    """Activations of one micro-batch that wait for its backward pass."""

    def __init__(self, setup: Setup) -> None:
        self.devices = setup.cluster.size
        width = DTYPE_BYTES[setup.model.activation_dtype]
        tokens = setup.together.astype(np.float64)
        if setup.workload.moe_only:
            per_token = sum(layer.router_gemm(setup.model.hidden).k for layer in setup.layers)
        else:
            per_token = sum(_own(layer, setup.model.hidden) for layer in setup.layers) + setup.model.hidden
        self.own = tokens * (width * per_token)
        self.copy_bytes = width * np.asarray(
            [[_products(expert.gemms) for expert in experts] for experts in setup.routed], dtype=np.float64
        )

    def under(self, assignments: Assignments) -> Array:
        """Return the bytes of each device under a plan [devices]."""
        kept = assignments.copies * self.copy_bytes[assignments.layer, assignments.expert]
        return self.own + np.bincount(assignments.device, weights=kept, minlength=self.devices)


def _own(layer: LayerSpec, hidden: int) -> int:
    """Return the elements that a layer keeps of each token, routed experts apart."""
    mixer = layer.attention
    elements = hidden + sum(gemm.k for gemm in mixer.gemms(hidden)) + _read(mixer, hidden)
    elements += (
        hidden + _products(layer.dense_gemms(hidden)) + sum(_products(one.gemms) for one in layer.shared)
    )
    if layer.is_moe:
        elements += layer.router_gemm(hidden).k + layer.router_gemm(hidden).n
    return elements


def _products(gemms: tuple[Gemm, ...]) -> int:
    """Return the elements that a feed-forward part keeps of a row: inputs of its products and of its gate."""
    return sum(gemm.k for gemm in gemms) + sum(gemm.n for gemm in gemms[:-1])


def _read(mixer: AttentionSpec, hidden: int) -> int:
    """Return the elements of a token that the core of a mixer reads."""
    if mixer.kind == "gqa":
        return mixer.heads * mixer.head_dim + mixer.kv_heads * (mixer.head_dim + mixer.value_dim)
    if mixer.kind == "mla":
        return mixer.heads * (2 * (mixer.head_dim + mixer.rope_dim) + mixer.value_dim)
    return sum(gemm.n for gemm in mixer.gemms(hidden)[:-1])
