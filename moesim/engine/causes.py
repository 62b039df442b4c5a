"""Names of what takes time: every second of every device belongs to one cause."""

from __future__ import annotations

from typing import Final

OWN: Final = ("attention", "dense", "gate", "permute", "planning", "experts", "unpermute")
"""Causes that each device spends on its own."""

SHARED: Final = ("dispatch", "weight_move", "combine")
"""Causes that all devices spend together on the network."""

CAUSES: Final = (
    "attention",
    "dense",
    "gate",
    "permute",
    "planning",
    "dispatch",
    "weight_move",
    "experts",
    "combine",
    "unpermute",
    "wait",
)
"""All causes, in the order of a layer; ``wait`` is time spent waiting for the slowest device."""
