"""How token copies travel: one message per copy, per device, or per node.

A token whose experts share a device need not be sent there twice, and one whose experts share a node
need cross to that node only once (DeepEP: over the NIC of the same index, then inside the node to each
device). Loads count copies, not which copies belong to one token, so the number of distinct
destinations is the expectation for ``k`` independent choices: of a source's ``t`` tokens,
``t * (1 - (1 - c / (k t))**k)`` have at least one of the ``c`` copies bound for a destination. With top-8
of 256 experts that is 5.25 of 8 ranks per token (a Monte-Carlo of DeepEP's test routing: 5.28) and 1.99
of 2 or 3.60 of 4 nodes (1.99, 3.60).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from moesim.hardware.traffic import Traffic

Array = npt.NDArray[np.float64]


def reached(copies: Array, tokens: Array, top_k: int) -> Array:
    """Return the expected tokens with at least one copy for a destination, elementwise.

    Args:
        copies: copies from a source to a destination.
        tokens: tokens of the source, broadcast against ``copies``.
        top_k: copies per token.
    """
    draws = tokens * top_k
    chance = np.divide(copies, draws, out=np.zeros_like(copies), where=draws > 0)
    return np.asarray(tokens * -np.expm1(top_k * np.log1p(-np.minimum(chance, 1.0 - 1e-15))))


def once_per_device(traffic: Traffic, tokens: Array, top_k: int) -> Traffic:
    """Return what is sent if a token goes to each device once.

    Args:
        traffic: token copies.
        tokens: tokens of each device [devices].
        top_k: copies per token.
    """
    if traffic.matrix is not None:
        return Traffic.of_pairs(reached(traffic.matrix, tokens[np.newaxis, :, np.newaxis], top_k))
    # Every source sends in proportion to its tokens, so the chance is the same for all of them.
    total = np.full_like(traffic.inbound, tokens.sum())
    assert traffic.share is not None
    return Traffic.pooled(reached(traffic.inbound, total, top_k), traffic.share)


def once_per_node(traffic: Traffic, tokens: Array, top_k: int, node_of: npt.NDArray[np.int64]) -> Traffic:
    """Return what is sent if a token crosses to each node once and is handed on inside it.

    The device of the same index in the other node receives for all devices there and hands on once per
    device.

    Args:
        traffic: token copies.
        tokens: tokens of each device [devices].
        top_k: copies per token.
        node_of: node of each device, int64 [devices].
    """
    copies = traffic.dense()
    nodes, node_of = np.unique(node_of, return_inverse=True)
    devices = np.arange(node_of.size)
    members = [np.flatnonzero(node_of == node) for node in range(nodes.size)]
    local = np.zeros_like(devices)
    for member in members:
        local[member] = np.arange(member.size)
    per_device = reached(copies, tokens[np.newaxis, :, np.newaxis], top_k)
    sent = np.zeros_like(copies)
    for node, member in enumerate(members):
        inside = node_of == node
        relay = member[local % member.size]
        crossing = reached(copies[:, :, member].sum(axis=2), tokens[np.newaxis, :], top_k)
        outside = devices[~inside]
        sent[:, outside, relay[outside]] += crossing[:, outside]
        for source in devices:
            hand = source if inside[source] else relay[source]
            sent[:, hand, member] += per_device[:, source, member]
    return Traffic.of_pairs(sent)
