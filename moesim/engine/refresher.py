"""Keeps the placement of a run up to date: looks back, places anew, and moves weights step by step."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from moesim.engine.exchange import ExchangePricer
from moesim.engine.migration import Migration
from moesim.engine.setup import Setup, blamed
from moesim.engine.weight_moves import MovingCosts
from moesim.errors import InputError
from moesim.policies.past import Past
from moesim.policies.plan import Placement, WeightMoves
from moesim.policies.refresh import Refresh
from moesim.routing.load import Load

Array = npt.NDArray[np.float64]
Counts = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Transition:
    """What happens to the placement before a step.

    Attributes:
        seconds: what the step waits for [MoE layers].
        links: bytes per link [links].
        moved_bytes: weights that devices begin to load.
        beside: bytes that stand beside the old placement while the step waits [devices]; None: it does not.
        staged: bytes that have arrived or are on their way for layers that have not changed yet [devices].
        layer: first layer of those that move.
        changed: whether another placement is in force from this step on.
    """

    seconds: Array
    links: Array
    moved_bytes: float
    beside: Array | None
    staged: Array
    layer: int
    changed: bool


class _Flight(NamedTuple):
    """Updates on their way beside the steps, and when they have arrived (s)."""

    rows: npt.NDArray[np.bool_]
    until: float


class Refresher:
    """Follows the loads of one run.

    Attributes:
        placement: experts of each rank, as in force.
    """

    def __init__(self, setup: Setup, pricer: ExchangePricer) -> None:
        self.setup, self.pricer = setup, pricer
        self.refresh: Refresh | None = setup.policy.refresh
        self.seen: deque[npt.NDArray[np.uint32]] = deque()
        if self.refresh is not None:
            self.seen = deque(maxlen=self.refresh.window or self.refresh.every)
            self.placement = setup.rank_placement
        self.going: Migration | None = None
        self.flying: _Flight | None = None

    def nothing(self) -> Transition:
        """Return what happens before a step in which the placement stays and nothing moves."""
        layers, links = self.setup.moe_rows.size, self.setup.cluster.network.bandwidth.size
        staged = np.zeros(self.setup.cluster.size)
        return Transition(np.zeros(layers), np.zeros(links), 0.0, None, staged, 0, False)

    def observe(self, load: Load) -> None:
        """Remember the load of a step."""
        if self.refresh is not None:
            self.seen.append(load.per_expert.astype(np.uint32))

    def before(self, step: int, now: float) -> Transition | None:
        """Do what is due before a step; None where nothing is.

        Args:
            step: number of the step.
            now: when it would begin (s).
        """
        if self.refresh is None:
            return None
        refresh, before = self.refresh, self.placement
        landed = self.flying is not None and now >= self.flying.until
        if landed:
            self._land()
        if self.flying is not None:
            return None
        if self.going is None and step > 0 and step % refresh.every == 0:
            self.going = self._planned()
        if self.going is None:
            return self._transition(before) if landed else None
        return self._move(self.going, refresh, before, now)

    def _move(self, going: Migration, refresh: Refresh, before: Placement, now: float) -> Transition:
        """Begin the updates of this step."""
        rows = going.next(refresh.layers_per_step, refresh.moves_per_step)
        self.flying = _Flight(rows, now)
        moves = self._by_device(going.chosen(rows))
        cost = self.pricer.mover.alone(moves)
        layer = int(moves.layer.min(initial=self.setup.moe_rows.size - 1))
        staged = self._bytes(going.loaded() | rows)
        if refresh.mode == "background" and rows.any():
            self.flying = _Flight(rows, now + float(cost.seconds.sum()))
            waiting = replace(cost, seconds=np.zeros_like(cost.seconds))
            return self._transition(before, waiting, None, staged, layer)
        self._land()
        return self._transition(before, cost, staged, self._staged(), layer)

    def _land(self) -> None:
        """Let arrived updates take effect."""
        assert self.refresh is not None
        assert self.going is not None
        assert self.flying is not None
        self.placement = self.going.land(self.flying.rows, self.refresh.layers_per_step, self.placement)
        self.flying = None
        if self.going.over:
            self.going = None

    def _planned(self) -> Migration | None:
        """Place experts by what was seen; None where nothing changes."""
        assert self.refresh is not None
        setup, old = self.setup, self.placement
        seen = np.stack(list(self.seen)).astype(np.int64)

        def pairs() -> tuple[Array, Array]:
            found = setup.routing.affinity()
            return found.together, found.onward

        view = replace(setup.view, past=Past(_parts(seen), pairs, old))
        with blamed(setup.policy, "refreshing its placement"):
            new = setup.policy.placement.place(seen.sum(axis=0), view)
        shape = (old.layers, old.devices, old.experts)
        if (new.layers, new.devices, new.experts) != shape:
            message = (
                f"placement policy '{setup.policy.placement.name}' places {new.experts} experts in "
                f"{new.layers} layers on {new.devices} devices, not {shape[2]}, {shape[0]} and {shape[1]}"
            )
            raise InputError(message, hint="moesim.testing.check_placement_policy shows where")
        made = Migration.between(old, new, view.node_of, self.refresh.source == "host")
        return None if made.over else made

    def _by_device(self, moves: WeightMoves) -> WeightMoves:
        """Return updates of devices for those of ranks: each device of a rank loads its share."""
        parts = self.setup.parallel.expert_tp
        if parts == 1:
            return moves
        part = np.tile(np.arange(parts), len(moves))
        layer, expert, source, target = (
            np.repeat(column, parts) for column in (moves.layer, moves.expert, moves.source, moves.target)
        )
        source = np.where(source < 0, -1, source * parts + part)
        return WeightMoves(layer, expert, source, target * parts + part)

    def _bytes(self, rows: npt.NDArray[np.bool_]) -> Array:
        """Return the bytes of updates by device [devices]."""
        assert self.going is not None
        moves = self._by_device(self.going.chosen(rows))
        size = self.setup.expert_bytes[moves.layer, moves.expert]
        devices = self.setup.cluster.size
        return np.bincount(moves.target, weights=size, minlength=devices).astype(np.float64)

    def _staged(self) -> Array:
        """Return the bytes that wait for the rest of their layer [devices]."""
        return np.zeros(self.setup.cluster.size) if self.going is None else self._bytes(self.going.loaded())

    def _transition(
        self,
        before: Placement,
        cost: MovingCosts | None = None,
        beside: Array | None = None,
        staged: Array | None = None,
        layer: int = 0,
    ) -> Transition:
        still = self.nothing()
        if cost is not None:
            moved = float(cost.moved_in.sum())
            still = replace(still, seconds=cost.seconds, links=cost.link_bytes.sum(axis=0), moved_bytes=moved)
        return replace(
            still,
            beside=beside,
            staged=self._staged() if staged is None else staged,
            layer=layer,
            changed=self.placement is not before,
        )


def _parts(seen: Counts) -> Callable[[int], Counts]:
    """Return what cuts the loads of steps [steps, layers, experts] into equal parts.

    A step on the edge of two parts is shared between them by whole copies.
    """
    steps = len(seen)

    def windows(count: int) -> Counts:
        edges = np.arange(count + 1) * steps
        whole, rest = edges // count, edges % count
        total = np.concatenate([np.zeros_like(seen[:1]), seen.cumsum(axis=0)])
        begun = np.concatenate([seen, np.zeros_like(seen[:1])])[whole]
        upto = total[whole] + begun * rest[:, np.newaxis, np.newaxis] // count
        return np.diff(upto, axis=0)

    return windows
