"""Experts of all layers placed so that tokens stay put from layer to layer, the program of ExFlow.

Maximises the sum over neighbouring layers of transitions x worth, where a transition is worth 1 on a
device, ``near`` in a node and 0 between nodes, with equally many experts per device and layer. With both
neighbours fixed a layer is an assignment problem, which is solved exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import numpy.typing as npt

from moesim.policies.placement.layout import contiguous, even_room

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]

MOST_SWEEPS: Final = 50


@dataclass(frozen=True, eq=False)
class Chain:
    """What is to be placed where.

    Attributes:
        onward: transitions from an expert to one of the next layer, [layers - 1, experts, experts].
        node_of: node of each device, int64 [devices].
        near: worth of a transition inside a node, of one on a device being 1.
    """

    onward: FloatArray
    node_of: IntArray
    near: float

    @property
    def layers(self) -> int:
        """Number of layers."""
        return len(self.onward) + 1

    @property
    def experts(self) -> int:
        """Experts of a layer."""
        return int(self.onward.shape[1])

    @cached_property
    def worth(self) -> FloatArray:
        """Worth of a transition between devices, [devices, devices]."""
        same_node = self.node_of[:, np.newaxis] == self.node_of
        return np.where(np.eye(self.node_of.size, dtype=bool), 1.0, np.where(same_node, self.near, 0.0))

    @cached_property
    def room(self) -> IntArray:
        """Experts of each device, int64 [devices]."""
        return even_room(self.experts, self.node_of.size)

    def score(self, device_of: IntArray) -> float:
        """Sum transitions x worth, given the device of each expert, int64 [layers, experts]."""
        return sum(
            float((amounts * self.worth[np.ix_(device_of[at], device_of[at + 1])]).sum())
            for at, amounts in enumerate(self.onward)
        )

    def gain(self, device_of: IntArray, layer: int, before: bool = True, after: bool = True) -> FloatArray:
        """Return what each expert of a layer is worth on each device, its neighbours fixed."""
        gain = np.zeros((self.experts, self.node_of.size))
        if before and layer > 0:
            gain += self.onward[layer - 1].T @ self.worth[device_of[layer - 1]]
        if after and layer + 1 < self.layers:
            gain += self.onward[layer] @ self.worth[device_of[layer + 1]]
        return gain


def search(chain: Chain) -> IntArray:
    """Return a good device of each expert, int64 [layers, experts], at least as good as blocks."""
    plain = np.tile(contiguous(chain.experts, chain.node_of.size), (chain.layers, 1))
    found = [_improved(chain, start) for start in (plain, _followed(chain, plain), _led(chain, plain))]
    scores = [chain.score(one) for one in found]
    return found[scores.index(max(scores))]


def assign(gain: FloatArray, room: IntArray) -> IntArray:
    """Give every row a column so that the sum of gains is largest and columns take what they have room for.

    Args:
        gain: [experts, devices].
        room: experts that each device takes, int64 [devices]; they add up to the number of experts.
    """
    from scipy.optimize import linear_sum_assignment

    column = np.repeat(np.arange(room.size, dtype=np.int64), room)
    _, chosen = linear_sum_assignment(gain[:, column], maximize=True)
    return np.asarray(column[chosen], dtype=np.int64)


def _followed(chain: Chain, plain: IntArray) -> IntArray:
    """Place layer after layer, each for the sake of the one before."""
    device_of = plain.copy()
    for layer in range(1, chain.layers):
        device_of[layer] = assign(chain.gain(device_of, layer, after=False), chain.room)
    return device_of


def _led(chain: Chain, plain: IntArray) -> IntArray:
    """Place layer before layer, each for the sake of the one after."""
    device_of = plain.copy()
    for layer in range(chain.layers - 2, -1, -1):
        device_of[layer] = assign(chain.gain(device_of, layer, before=False), chain.room)
    return device_of


def _improved(chain: Chain, start: IntArray) -> IntArray:
    """Place one layer after the other anew, its neighbours fixed, as long as that helps."""
    device_of = start.copy()
    rows = np.arange(chain.experts)
    stale = np.ones(chain.layers, dtype=bool)
    for sweep in range(MOST_SWEEPS):
        for layer in range(chain.layers) if sweep % 2 == 0 else range(chain.layers - 1, -1, -1):
            if not stale[layer]:
                continue
            stale[layer] = False
            gain = chain.gain(device_of, layer)
            tried = assign(gain, chain.room)
            old, new = (float(gain[rows, one].sum()) for one in (device_of[layer], tried))
            if new > old + 1e-9 * max(1.0, abs(old)):
                device_of[layer] = tried
                stale[max(0, layer - 1) : layer + 2] = True
                stale[layer] = False
        if not stale.any():
            break
    return device_of
