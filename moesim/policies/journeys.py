"""Where tokens have to go under a placement: devices per token, and hops from layer to layer."""

from __future__ import annotations

import numpy as np

from moesim.errors import InputError
from moesim.policies.plan import IntArray, Placement


def homes(placement: Placement) -> IntArray:
    """Return the device of each expert, int64 [layers, experts].

    Raises:
        InputError: an expert stands in several slots, so that where tokens go is up to dispatch.
    """
    if int(placement.replicas.max(initial=1)) > 1:
        message = "where a token goes is given by a placement only if no expert has a replica"
        raise InputError(message)
    made = np.empty((placement.layers, placement.experts), dtype=np.int64)
    layer, device, slot = np.nonzero(placement.slots >= 0)
    made[layer, placement.slots[layer, device, slot]] = device
    return made


def copies_per_token(ids: IntArray, device_of: IntArray) -> float:
    """Return how many different devices a token is sent to in a layer, mean over tokens and layers.

    Args:
        ids: experts of each token, int64 [tokens, layers, top_k].
        device_of: device of each expert, int64 [layers, experts]; or its node, for nodes.
    """
    places = np.sort(device_of[np.arange(ids.shape[1])[:, np.newaxis], ids], axis=2)
    return float((np.diff(places, axis=2) != 0).sum(axis=2).mean()) + 1.0


def hop_share(ids: IntArray, device_of: IntArray) -> float:
    """Return the share of (choice, next layer's choice) pairs of tokens that stand on different devices.

    With one expert per token these are the tokens that change devices between layers (ExFlow, 2401.08383).

    Args:
        ids: experts of each token, int64 [tokens, layers, top_k].
        device_of: device of each expert, int64 [layers, experts]; or its node, for nodes.
    """
    places = device_of[np.arange(ids.shape[1])[:, np.newaxis], ids]
    return float((places[:, :-1, :, np.newaxis] != places[:, 1:, np.newaxis, :]).mean())
