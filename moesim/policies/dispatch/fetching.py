"""Which weights devices need to compute all of their own copies, and from where they get them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from moesim.policies.plan import WeightMoves

IntArray = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Fetches:
    """Weights that devices fetch, each expert once per node.

    Attributes:
        moves: from where to where.
        crossing: experts that cross to a node, int64 [layers].
        inside: experts handed on inside nodes, int64 [layers].
    """

    moves: WeightMoves
    crossing: IntArray
    inside: IntArray


def fetch_once_per_node(need: BoolArray, held: BoolArray, homes: IntArray, node_of: IntArray) -> Fetches:
    """Let every device get the experts it needs.

    An expert comes from a device of the same node that holds it. Where there is none, one of those that need
    it gets it from the expert's home and hands it on; the experts of a node take turns in whom they choose.

    Args:
        need: which device needs the weights of which expert, bool [layers, devices, experts].
        held: which device holds which expert, the same shape.
        homes: home device of each expert, int64 [layers, experts].
        node_of: node of each device, int64 [devices].
    """
    layers, _, experts = need.shape
    source = np.full(need.shape, -1, dtype=np.int64)
    crossing = np.zeros(layers, dtype=np.int64)
    turn = np.arange(experts)
    for node in np.unique(node_of):
        mine = np.flatnonzero(node_of == node)
        wants: BoolArray = need[:, mine]
        has: BoolArray = held[:, mine]
        wanting = wants.sum(axis=1)
        rank = wants.cumsum(axis=1) - 1
        chosen: BoolArray = np.asarray(wants & (rank == (turn % np.maximum(wanting, 1))[:, np.newaxis]))
        near: BoolArray = np.asarray(has.any(axis=1))
        giver = mine[np.where(near, has.argmax(axis=1), chosen.argmax(axis=1))]
        far = chosen & ~near[:, np.newaxis]
        source[:, mine] = np.where(far, homes[:, np.newaxis], giver[:, np.newaxis])
        crossing += far.sum(axis=(1, 2))
    layer, target, expert = np.nonzero(need)
    moves = WeightMoves(layer, expert, source[layer, target, expert], target)
    return Fetches(moves, crossing, need.sum(axis=(1, 2)) - crossing)
