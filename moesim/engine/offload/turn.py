"""What one device does in one MoE layer of one iteration."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

Ready = tuple[int, int]
"""Tokens of an expert and its slot, -1 for one that does not stay."""


@dataclass(eq=False)
class Turn:
    """What one device does in one layer.

    Attributes:
        begin: when its experts may begin (s).
        shared: seconds of its shared experts, which run first.
        ready: experts that are there.
        awaited: experts that must arrive, by copy; those without tokens are not computed.
        pending: experts that wait for a slot: expert, tokens, precision.
        cpu: tokens of each expert that runs on the CPU.
        early: tokens of each that the CPU may begin earlier.
        foretold: these experts.
        foretold_s: from when on it may (s).
        arrivals: when awaited copies came, with tokens (s).
        experts_s: seconds of experts on the device.
        load_s: seconds in which it waits for weights.
        cpu_s: seconds in which it waits for the CPU.
        end: when all of it is done (s).
        skipped: tokens of skipped experts.
        low: tokens of experts computed in low precision.
        copies: token copies computed, wherever.
        active: experts with at least one.
        busy: intervals of the device: cause, begin, end; only where they are watched.
        cpu_busy: intervals of the CPU.
        hops: tokens on their way to the CPU and results on their way back: stream, begin, end.
    """

    begin: float
    shared: float
    ready: list[Ready] = field(default_factory=list)
    awaited: dict[int, Ready] = field(default_factory=dict)
    pending: deque[tuple[int, int, int]] = field(default_factory=deque)
    cpu: list[int] = field(default_factory=list)
    early: list[int] = field(default_factory=list)
    foretold: list[int] = field(default_factory=list)
    foretold_s: float = 0.0
    arrivals: list[tuple[float, int]] = field(default_factory=list)
    experts_s: float = 0.0
    load_s: float = 0.0
    cpu_s: float = 0.0
    end: float = 0.0
    skipped: int = 0
    low: int = 0
    copies: int = 0
    active: int = 0
    busy: list[tuple[str, float, float]] = field(default_factory=list)
    cpu_busy: list[tuple[float, float]] = field(default_factory=list)
    hops: list[tuple[str, float, float]] = field(default_factory=list)
