"""Which experts one device holds: its caches, what is on its way, and what has to leave."""

from __future__ import annotations

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

    def taken(self, cache: int) -> int:
        """Return the slots that are filled or reserved."""
        return len(self.resident[cache]) + len(self.coming[cache])


class Residency:
    """The caches of one device.

    Args:
        policy: what leaves a cache.
        frame: sizes and what is known of the past, with the capacity that the policy chose.
        mix: how caches are shared by two precisions, if they are.

    Attributes:
        stores: experts in high and, where there are any, in low precision.
        evictions: experts that have left.
        gone: prefetched experts that left before their layer came, as precision and slot; whoever counts them
            empties the list.
    """

    def __init__(self, policy: CachePolicy, frame: CacheFrame, mix: Precisions | None) -> None:
        self.frame = frame
        self.fixed = policy.keeps == "fixed"
        self.per_layer = frame.caches == frame.layers
        self.state = policy.start(frame)
        self.evictions = 0
        self.gone: list[tuple[int, int]] = []
        self._access: Access | None = None
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
            low = np.floor(frame.capacity * mix.low_share / mix.low_size + 1e-9).astype(np.int64)
            high = frame.capacity - np.ceil(frame.capacity * mix.low_share - 1e-9).astype(np.int64)
            self.stores = [Store(high.tolist()), Store(low.tolist())]

    def cache(self, layer: int) -> int:
        """Return the cache of a layer."""
        return layer if self.per_layer else 0

    def slot(self, layer: int, expert: int) -> int:
        """Return the slot number of an expert in its cache."""
        return expert if self.per_layer else layer * self.frame.experts + expert

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
        self._access = Access(
            turn,
            self._rows[self.cache(layer)],
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
            store.resident[cache] = set(able[:size].tolist())

    def held(self, layer: int) -> set[int]:
        """Return the experts of a layer that are there or on their way, in any precision."""
        if self.per_layer:
            found: set[int] = set()
            for store in self.stores:
                found |= store.resident[layer]
                found.update(store.coming[layer])
            return found
        first = layer * self.frame.experts
        last = first + self.frame.experts
        return {
            slot - first
            for store in self.stores
            for place in (store.resident[0], store.coming[0])
            for slot in place
            if first <= slot < last
        }

    def make_room(self, layer: int, precision: int, keep: set[int]) -> bool:
        """Free a slot in the cache of a layer, unless one is free; say whether there is one now.

        Args:
            layer: the layer.
            precision: HIGH or LOW.
            keep: slots that must not leave.
        """
        cache = self.cache(layer)
        store = self.stores[precision]
        if store.taken(cache) < store.room[cache]:
            return True
        resident = store.resident[cache]
        able = resident - keep
        if not able or self._access is None:
            return False
        row = self.state.priorities(self._access)[0].tolist()
        leaving = min(sorted(able), key=row.__getitem__)
        self.evict(cache, precision, leaving)
        return True

    def evict(self, cache: int, precision: int, slot: int) -> None:
        """Let an expert go."""
        store = self.stores[precision]
        store.resident[cache].discard(slot)
        self.evictions += 1
        if slot in store.fresh[cache]:
            store.fresh[cache].discard(slot)
            self.gone.append((precision, slot if not self.per_layer else cache * self.frame.experts + slot))
