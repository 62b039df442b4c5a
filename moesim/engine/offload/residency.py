"""Which experts one device holds: its caches, what is on its way, and what has to leave."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np

from moesim.policies.cache.base import Access, CacheFrame, CachePolicy, Ints, Precisions

HIGH, LOW = 0, 1


@dataclass(eq=False)
class Store:
    """Experts of one precision, by cache.

    Attributes:
        room: experts that each cache holds.
        resident: slots that are there.
        coming: slots on their way, with the number of the copy.
        fresh: slots that were prefetched and not used since.
    """

    room: list[int]
    resident: list[set[int]] = field(init=False)
    coming: list[dict[int, int]] = field(init=False)
    fresh: list[set[int]] = field(init=False)

    def __post_init__(self) -> None:
        caches = len(self.room)
        self.resident = [set() for _ in range(caches)]
        self.coming = [{} for _ in range(caches)]
        self.fresh = [set() for _ in range(caches)]


class Residency:
    """The caches of one device.

    Args:
        policy: what leaves a cache.
        frame: sizes and what is known of the past, with the capacity that the policy chose.
        mix: how caches are shared by two precisions, if they are.

    Attributes:
        stores: experts in high and, where there are any, in low precision.
        caches: cache of each layer.
        firsts: slot in it of the layer's first expert.
        present: experts of each layer that are there or on their way, in any precision.
        gone: prefetched experts that left before their layer came, as precision and slot; whoever counts them
            empties the list.
    """

    def __init__(self, policy: CachePolicy, frame: CacheFrame, mix: Precisions | None) -> None:
        self.frame = frame
        self.fixed = policy.keeps == "fixed"
        self.passing = policy.keeps == "passing"
        self.per_layer = frame.caches == frame.layers
        self.state = policy.start(frame)
        self.gone: list[tuple[int, int]] = []
        self.caches = list(range(frame.layers)) if self.per_layer else [0] * frame.layers
        self.firsts = [0 if self.per_layer else layer * frame.experts for layer in range(frame.layers)]
        self.present: list[set[int]] = [set() for _ in range(frame.layers)]
        self._access: Access | None = None
        self._asked = 0
        self._rows = [np.array([[cache]]) for cache in range(frame.caches)]
        self._layers = [np.array([[layer]]) for layer in range(frame.layers)]
        whole = slice(0, frame.experts)
        self._spans = [
            whole if self.per_layer else slice(layer * frame.experts, (layer + 1) * frame.experts)
            for layer in range(frame.layers)
        ]
        if mix is None or not mix.low_share:
            self.stores = [Store(frame.capacity.tolist())]
        else:
            high, low = mix.split(frame.capacity)
            self.stores = [Store(high.tolist()), Store(low.tolist())]

    def see(
        self,
        step: int,
        layer: int,
        ids: Ints,
        weights: np.ndarray[tuple[int, ...], np.dtype[np.float64]] | None,
        classes: np.ndarray[tuple[int, ...], np.dtype[np.int8]] | None,
    ) -> None:
        """Tell the policy what a layer asks for.

        Args:
            step: of the iteration.
            layer: the layer.
            ids: experts [1, k].
            weights: gate weights, or None.
            classes: precision that a miss would load, or None.
        """
        turn = step if self.per_layer else step * self.frame.layers + layer
        slots = ids if self.per_layer else ids + layer * self.frame.experts
        self._asked = self.caches[layer]
        self._access = Access(
            turn,
            self._rows[self._asked],
            slots,
            weights,
            self._layers[layer],
            self._spans[layer],
            classes,
        )
        self.state.see(self._access)

    def fill(self, worth: np.ndarray[tuple[int, ...], np.dtype[np.float64]]) -> None:
        """Begin with the experts worth most in the high-precision caches, [caches, slots]."""
        order = np.argsort(-worth, axis=1, kind="stable")
        store = self.stores[HIGH]
        for cache, size in enumerate(store.room):
            able = order[cache][np.isfinite(worth[cache][order[cache]])]
            self.hold(cache, able[:size].tolist())

    def hold(self, cache: int, slots: Iterable[int]) -> None:
        """Let a high-precision cache hold these experts, and no others, without loading them."""
        self.stores[HIGH].resident[cache] = set(slots)
        for slot in self.stores[HIGH].resident[cache]:
            layer, expert = (cache, slot) if self.per_layer else divmod(slot, self.frame.experts)
            self.present[layer].add(expert)

    def reserve(self, layer: int, expert: int, precision: int, number: int) -> None:
        """Set a slot aside for an expert that is on its way as a copy of that number."""
        slot = self.firsts[layer] + expert
        self.stores[precision].coming[self.caches[layer]][slot] = number
        self.present[layer].add(expert)

    def land(self, layer: int, expert: int, precision: int, fresh: bool) -> None:
        """Take in an expert that has arrived; ``fresh`` ones have been prefetched and not been asked for."""
        store, cache, slot = self.stores[precision], self.caches[layer], self.firsts[layer] + expert
        del store.coming[cache][slot]
        store.resident[cache].add(slot)
        if fresh:
            store.fresh[cache].add(slot)

    def leave(self, layer: int) -> None:
        """Let all experts of a layer go."""
        cache, first = self.caches[layer], self.firsts[layer]
        for precision, store in enumerate(self.stores):
            for slot in sorted(store.resident[cache]):
                if first <= slot < first + self.frame.experts:
                    self.evict(cache, precision, slot)

    def has_room(self, layer: int, precision: int) -> bool:
        """Say whether a slot in the cache of a layer is free."""
        cache, store = self.caches[layer], self.stores[precision]
        return len(store.resident[cache]) + len(store.coming[cache]) < store.room[cache]

    def make_room(self, layer: int, precision: int, keep: set[int]) -> bool:
        """Free a slot in the cache of a layer, unless one is free; say whether there is one now.

        Args:
            layer: the layer.
            precision: HIGH or LOW.
            keep: slots that must not leave.
        """
        cache = self.caches[layer]
        store = self.stores[precision]
        if self.has_room(layer, precision):
            return True
        able = store.resident[cache] - keep
        if not able or self._access is None:
            return False
        access = self._access if cache == self._asked else self._access._replace(rows=self._rows[cache])
        worth = self.state.priorities(access)[0].tolist()
        self.evict(cache, precision, min(sorted(able), key=worth.__getitem__))
        return True

    def evict(self, cache: int, precision: int, slot: int) -> None:
        """Let an expert go."""
        store = self.stores[precision]
        store.resident[cache].discard(slot)
        layer, expert = (cache, slot) if self.per_layer else divmod(slot, self.frame.experts)
        for other in self.stores:
            if slot in other.resident[cache] or slot in other.coming[cache]:
                break
        else:
            self.present[layer].discard(expert)
        if slot in store.fresh[cache]:
            store.fresh[cache].discard(slot)
            self.gone.append((precision, layer * self.frame.experts + expert))
