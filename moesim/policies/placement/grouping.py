"""Groups of experts that tokens use together: grown greedily, then bettered by swaps and moves.

Maximises the weight of pairs inside groups, of one layer, with bounds on the size of groups.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MOST_ROUNDS: Final = 500


def inside(weight: FloatArray, group_of: IntArray) -> float:
    """Sum the weight of pairs [experts, experts] in one group, both orders counted."""
    return float(weight[group_of[:, np.newaxis] == group_of].sum())


def grow(weight: FloatArray, room: IntArray) -> IntArray:
    """Fill group after group with the expert that has most in common with those already in it.

    A group starts with the heaviest pair of what is left, or the heaviest expert.

    Args:
        weight: tokens that use both experts, symmetric with diagonal 0, [experts, experts].
        room: size of each group, int64 [groups]; sizes add up to the number of experts.

    Returns:
        Group of each expert, int64 [experts]; of equals the first expert is taken.
    """
    group_of = np.full(len(weight), -1, dtype=np.int64)
    for group, size in enumerate(room.tolist()):
        free = group_of < 0
        among = np.where(free[:, np.newaxis] & free, weight, -1.0)
        attraction = among.max(axis=1, initial=-1.0)
        for _ in range(size):
            expert = int(np.where(group_of < 0, attraction, -np.inf).argmax())
            if not (group_of == group).any():
                attraction = np.zeros(len(weight))
            group_of[expert] = group
            attraction = attraction + weight[expert]
    return group_of


def refine(weight: FloatArray, group_of: IntArray, least: int, most: int, groups: int) -> IntArray:
    """Swap experts of two groups, or move one, as long as groups gain weight.

    Args:
        weight: as for ``grow``.
        group_of: group of each expert to start from, int64 [experts].
        least: smallest size of a group; groups that are smaller give nothing away.
        most: largest size of a group.
        groups: number of groups.

    Returns:
        Group of each expert, int64 [experts]; never with less weight inside groups.
    """
    group_of, experts = group_of.copy(), len(weight)
    rows = np.arange(experts)
    enough = 1e-9 * max(1.0, float(weight.sum()))
    for _ in range(MOST_ROUNDS):
        member = np.zeros((experts, groups))
        member[rows, group_of] = 1.0
        size = member.sum(axis=0)
        toward = weight @ member
        own = toward[rows, group_of]
        gone = toward[:, group_of] - own[:, np.newaxis]
        swap = gone + gone.T - 2.0 * weight
        swap[group_of[:, np.newaxis] == group_of] = -np.inf
        partner = swap.argmax(axis=1)
        may = (size < most) & (size[group_of] > least)[:, np.newaxis]
        move = np.where(may, toward - own[:, np.newaxis], -np.inf)
        move[rows, group_of] = -np.inf
        target = move.argmax(axis=1)
        gain = np.maximum(swap[rows, partner], move[rows, target])
        moves = move[rows, target] > swap[rows, partner]
        # Changes between other pairs of groups keep their gain, so several can be made at once.
        touched = np.zeros(groups, dtype=bool)
        for expert in np.argsort(-gain, kind="stable"):
            if gain[expert] <= enough:
                break
            here = group_of[expert]
            there = target[expert] if moves[expert] else group_of[partner[expert]]
            if touched[here] or touched[there]:
                continue
            touched[[here, there]] = True
            if not moves[expert]:
                group_of[partner[expert]] = here
            group_of[expert] = there
        if not touched.any():
            break
    return group_of


def grouped(weight: FloatArray, room: IntArray, start: IntArray, least: int, most: int) -> IntArray:
    """Return the better of two groupings: grown, and from ``start`` [experts]; both refined."""
    if not start.size:
        return start
    both = [refine(weight, one, least, most, room.size) for one in (grow(weight, room), start)]
    values = [inside(weight, one) for one in both]
    return both[values.index(max(values))]
