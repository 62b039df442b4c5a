"""How token copies travel: one message per copy, per device, or per node.

A token whose experts share a device need not be sent there twice, and one whose experts share a node
need cross to that node only once (DeepEP: over the NIC of the same index, then inside the node to each
device). Loads count copies, not which copies belong to one token, so the number of distinct
destinations is the expectation for ``k`` independent choices: of a source's ``t`` tokens,
``t * (1 - (1 - c / (k t))**k)`` have at least one of the ``c`` copies bound for a destination. With top-8
of 256 experts that is 5.25 of 8 ranks per token (a Monte-Carlo of DeepEP's test routing: 5.28) and 1.99
of 2 or 3.60 of 4 nodes (1.99, 3.60).

A router that lets a token reach few groups of experts makes it reach fewer nodes (``spared``: the share that
is left of that expectation); a token carries at most ``k`` copies all the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.hardware.traffic import Traffic

Array = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Relayed:
    """Messages that cross to each node once.

    Attributes:
        traffic: messages between devices.
        node_pairs: (token, node) pairs that each device sends or hands on, the larger of both, those of
            its own node included [layers, devices].
    """

    traffic: Traffic
    node_pairs: Array


def reached(copies: Array, tokens: Array, top_k: int, spared: npt.ArrayLike = 1.0) -> Array:
    """Return the expected tokens with at least one copy for a destination, elementwise.

    Args:
        copies: copies from a source to a destination.
        tokens: tokens of the source, broadcast against ``copies``.
        top_k: copies per token.
        spared: share of the expectation that a group limit leaves, broadcast against ``copies``.
    """
    amounts, draws = np.asarray(copies, dtype=np.float64), np.asarray(tokens * top_k, dtype=np.float64)
    share = np.divide(1.0, draws, out=np.zeros_like(draws), where=draws > 0)
    if amounts.ndim == 3 and draws.ndim < 3:
        # One layer at a time stays in the cache.
        expected = np.empty_like(amounts)
        for layer, part in enumerate(amounts):
            expected[layer] = tokens * _at_least_one(np.asarray(np.minimum(part * share, 1.0)), top_k)
    else:
        expected = np.asarray(tokens * _at_least_one(np.asarray(np.minimum(amounts * share, 1.0)), top_k))
    if np.all(np.asarray(spared) == 1.0):
        return expected
    return np.asarray(np.maximum(expected * np.asarray(spared), amounts / top_k))


def _at_least_one(chance: Array, draws: int) -> Array:
    """Return 1 - (1 - chance)**draws as chance * (1 + q + ... + q**(draws - 1)), exact for tiny chances."""
    other = 1.0 - chance
    total, power = np.ones_like(chance), other.copy()
    for bit in bin(draws)[3:]:
        total *= 1.0 + power
        power *= power
        if bit == "1":
            total = total * other + 1.0
            power *= other
    total *= chance
    return total


def once_per_device(traffic: Traffic, tokens: Array, top_k: int, spared: npt.ArrayLike = 1.0) -> Traffic:
    """Return what is sent if a token goes to each device once.

    Args:
        traffic: token copies.
        tokens: tokens of each device [devices].
        top_k: copies per token.
        spared: share that a group limit leaves, a number or [layers].
    """
    left = np.reshape(spared, (-1, 1))
    if traffic.matrix is not None:
        sent = reached(traffic.matrix, tokens[:, np.newaxis], top_k, left[:, np.newaxis])
        return Traffic.of_pairs(sent)
    # Every source sends in proportion to its tokens, so the chance is the same for all of them.
    total = np.full_like(traffic.inbound, tokens.sum())
    assert traffic.share is not None
    return Traffic.pooled(reached(traffic.inbound, total, top_k, left), traffic.share)


def once_per_node(
    traffic: Traffic,
    tokens: Array,
    top_k: int,
    node_of: IntArray,
    device_spared: npt.ArrayLike = 1.0,
    node_spared: npt.ArrayLike = 1.0,
) -> Relayed:
    """Return what is sent if a token crosses to each node once and is handed on inside it.

    The device of the same index in the other node receives for all devices there and hands on once per
    device.

    Args:
        traffic: token copies.
        tokens: tokens of each device [devices].
        top_k: copies per token.
        node_of: node of each device, int64 [devices].
        device_spared: share of the devices reached that a group limit leaves, a number or [layers].
        node_spared: the same of nodes.
    """
    relays = _Relays.of(node_of)
    per_device = once_per_device(traffic, tokens, top_k, device_spared).dense()
    if traffic.matrix is None:
        # The chance is that of all sources together, and each sends its share.
        assert traffic.share is not None
        total = relays.per_node(traffic.inbound)
        left = np.reshape(node_spared, (-1, 1))
        pairs = reached(total, np.full_like(total, tokens.sum()), top_k, left)
        crossing = traffic.share[:, :, np.newaxis] * pairs[:, np.newaxis, :]
    else:
        left = np.reshape(node_spared, (-1, 1, 1))
        crossing = reached(relays.per_node(traffic.matrix), tokens[:, np.newaxis], top_k, left)
    sent = relays.handed_on(per_device)
    source, node = np.nonzero(relays.node_of[:, np.newaxis] != np.arange(crossing.shape[2]))
    sent[:, source, relays.table[source, node]] = crossing[:, source, node]
    return Relayed(Traffic.of_pairs(sent), np.maximum(relays.handled(crossing), crossing.sum(axis=2)))


@dataclass(frozen=True, eq=False)
class _Relays:
    """Which device of every node takes in what a device sends there: the one of the same place.

    Attributes:
        node_of: node of each device, counted from 0, int64 [devices].
        by_node: devices sorted by node, int64 [devices].
        first: where each node begins in that order, int64 [nodes].
        table: relay of each device in each node, itself in its own, int64 [devices, nodes].
        by_place: devices sorted by their place in their node, int64 [devices].
        place: where each place begins in that order, int64 [places].
    """

    node_of: IntArray
    by_node: IntArray
    first: IntArray
    table: IntArray
    by_place: IntArray
    place: IntArray

    @classmethod
    def of(cls, node_of: IntArray) -> _Relays:
        _, node = np.unique(node_of, return_inverse=True)
        by_node = np.argsort(node, kind="stable")
        sizes = np.bincount(node)
        first = np.cumsum(sizes) - sizes
        local = np.empty_like(by_node)
        local[by_node] = np.arange(by_node.size) - first[node[by_node]]
        table = by_node[first + local[:, np.newaxis] % sizes]
        by_place = np.argsort(local, kind="stable")
        places = np.searchsorted(local[by_place], np.arange(int(sizes.max())))
        return cls(node, by_node, first, table, by_place, places)

    def per_node(self, amounts: Array) -> Array:
        """Add up the last axis over the devices of each node [..., devices] -> [..., nodes]."""
        return np.asarray(np.add.reduceat(_taken(amounts, self.by_node, -1), self.first, axis=-1))

    def handled(self, crossing: Array) -> Array:
        """Return what each device sends to its own node or takes in for it [layers, devices].

        Args:
            crossing: tokens of each source for each node [layers, devices, nodes].
        """
        total = np.zeros(crossing.shape[:2])
        for relays, amounts in self._places(crossing):
            total[:, relays] += amounts
        return total

    def handed_on(self, per_device: Array) -> Array:
        """Return what each device sends on within its node [layers, devices, devices].

        Args:
            per_device: tokens of each source for each device [layers, devices, devices].
        """
        sent = np.zeros_like(per_device)
        target = np.arange(self.node_of.size)
        for relays, amounts in self._places(per_device):
            sent[:, relays[self.node_of], target] += amounts
        return sent

    def _places(self, amounts: Array) -> Iterator[tuple[IntArray, Array]]:
        """Yield, per place in a node, its relay in every node and the amounts of all sources there."""
        for members in np.split(self.by_place, self.place[1:]):
            yield self.table[members[0]], _taken(amounts, members, 1).sum(axis=1)


def _taken(amounts: Array, places: IntArray, axis: int) -> Array:
    """Return chosen places along an axis, without a copy where they lie at even distances."""
    steps = np.diff(places)
    if steps.size and steps[0] > 0 and (steps == steps[0]).all():
        index: list[slice] = [slice(None)] * amounts.ndim
        index[axis] = slice(int(places[0]), int(places[-1]) + 1, int(steps[0]))
        return amounts[tuple(index)]
    return np.take(amounts, places, axis=axis)
