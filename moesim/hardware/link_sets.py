"""Which pairs of devices use which link, compressed so that link loads cost little to add up.

On clusters of switches, a link carries *every* pair from a set of sources to a set of destinations:
the uplink of a device carries {device} x {others}, the one of a node {its devices} x {all others}.
Few different sets occur, so the load of a link comes from sums over those sets, not over pairs.
Links for which this does not hold (between rails, in rings and tori) keep their list of pairs.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from moesim.hardware.device_sets import DeviceSets, FloatArray, IntArray, join_self
from moesim.hardware.routes import Routes

_MAX_CELLS = 1 << 25


@dataclass(frozen=True, eq=False)
class ProductLinks:
    """Links that carry sources x destinations, pairs to oneself excepted.

    Attributes:
        link: the links, int64 [products].
        sources: source set of each.
        targets: destination set of each.
        both: devices that are in both sets of each.
    """

    link: IntArray
    sources: DeviceSets
    targets: DeviceSets
    both: DeviceSets

    def pooled(self, leaving: FloatArray, arriving: FloatArray) -> FloatArray:
        """Add up leaving[source] * arriving[destination]: [products, layers].

        Both are [devices, layers]; leaving may have one column for all layers.
        """
        amounts = self.targets.sums(arriving)
        amounts *= self.sources.sums(leaving)
        amounts -= self.both.sums(arriving * leaving)
        return np.asarray(np.maximum(amounts, 0.0, out=amounts))

    def dense(self, matrix: FloatArray) -> FloatArray:
        """Add up amounts [layers, devices, devices]: [layers, products]."""
        devices, source, target = self.sources.devices, self.sources.of, self.targets.of
        to_sets = self.targets.large_column_sums(matrix)
        tables = {
            (False, False): matrix,
            (False, True): to_sets,
            (True, False): self.sources.large_sums(matrix),
            (True, True): self.sources.large_sums(to_sets),
        }
        amounts = np.empty((matrix.shape[0], self.link.size))
        for (large_source, large_target), table in tables.items():
            chosen = np.flatnonzero(
                ((source >= devices) == large_source) & ((target >= devices) == large_target)
            )
            row, column = source[chosen] - devices * large_source, target[chosen] - devices * large_target
            amounts[:, chosen] = table[:, row, column]
        local = np.ascontiguousarray(np.diagonal(matrix, axis1=1, axis2=2).T)
        amounts -= self.both.sums(local).T
        return np.asarray(np.maximum(amounts, 0.0, out=amounts))


@dataclass(frozen=True, eq=False)
class ListedLinks:
    """Links that carry some other set of pairs.

    A device's destinations on such a link are a set again, often shared by several devices; ``source``
    x ``targets`` per (link, source) is what pooled traffic needs.

    Attributes:
        link: link of every incidence (pair uses link), sorted, int64 [entries].
        pair: its pair, source * devices + destination, int64 [entries].
        term_link: link of every (link, source) that occurs, sorted, int64 [terms].
        term_source: its source, int64 [terms].
        targets: its destinations; None where so many sets differ that they would only waste memory.
    """

    link: IntArray
    pair: IntArray
    term_link: IntArray
    term_source: IntArray
    targets: DeviceSets | None

    @classmethod
    def from_entries(cls, link: IntArray, pair: IntArray, devices: int) -> ListedLinks:
        """Group incidences by link and source."""
        order = np.lexsort((pair, link))
        link, pair = link[order], pair[order]
        source, target = np.divmod(pair, devices)
        term, term_of = np.unique(link * devices + source, return_inverse=True)
        targets = None
        if term.size * devices <= _MAX_CELLS:
            masks = np.zeros((term.size, devices), dtype=np.bool_)
            masks[term_of.ravel(), target] = True
            targets = DeviceSets.from_masks(masks)
        return cls(link, pair, term // devices, term % devices, targets)

    @cached_property
    def starts(self) -> tuple[IntArray, IntArray]:
        """Each link that has terms, and its first term."""
        return np.unique(self.term_link, return_index=True)

    def add_pooled(self, leaving: FloatArray, arriving: FloatArray, result: FloatArray) -> None:
        """Add leaving[source] * arriving[destination] to [links, layers]."""
        if self.targets is None:
            for layer in range(arriving.shape[1]):
                pairs = np.multiply.outer(leaving[:, min(layer, leaving.shape[1] - 1)], arriving[:, layer])
                result[:, layer] += np.bincount(self.link, pairs.ravel()[self.pair], minlength=len(result))
            return
        terms = self.targets.sums(arriving)
        terms *= leaving[self.term_source]
        links, first = self.starts
        result[links] += np.add.reduceat(terms, first, axis=0)

    def add_dense(self, matrix: FloatArray, result: FloatArray) -> None:
        """Add amounts [layers, devices, devices] to [layers, links]."""
        for amounts, pairs in zip(result, matrix.reshape(matrix.shape[0], -1), strict=True):
            amounts += np.bincount(self.link, pairs[self.pair], minlength=amounts.size)


@dataclass(frozen=True, eq=False)
class LinkSets:
    """The pairs that each link carries.

    Attributes:
        links: number of links.
        products: links with a product of sets.
        listed: the other links that carry anything, None if there are none.
    """

    links: int
    products: ProductLinks
    listed: ListedLinks | None

    @classmethod
    def from_routes(cls, routes: Routes, links: int) -> LinkSets:
        """Find out which links carry product sets."""
        devices = routes.latency.shape[0]
        pair = np.repeat(np.arange(devices * devices), np.diff(routes.start))
        source, target = np.divmod(pair, max(devices, 1))
        sends, takes = np.zeros((links, devices), dtype=np.bool_), np.zeros((links, devices), dtype=np.bool_)
        sends[routes.link, source] = True
        takes[routes.link, target] = True
        carried = np.bincount(routes.link, minlength=links)
        senders, takers = sends.sum(axis=1), takes.sum(axis=1)
        # The pairs of a link lie within this product, so equal counts mean equal sets.
        whole = (carried > 0) & (carried == senders * takers - (sends & takes).sum(axis=1))
        link = np.flatnonzero(whole)
        sends, takes, senders, takers = sends[link], takes[link], senders[link], takers[link]
        join_self(takes, sends, np.flatnonzero((senders == 1) & (takers > 1)))
        join_self(sends, takes, np.flatnonzero((takers == 1) & (senders > 1)))
        make = DeviceSets.from_masks
        products = ProductLinks(link, make(sends), make(takes), make(sends & takes))
        rest = ~whole[routes.link]
        listed = ListedLinks.from_entries(routes.link[rest], pair[rest], devices) if rest.any() else None
        return cls(links, products, listed)

    def pooled(self, share: FloatArray, inbound: FloatArray) -> FloatArray:
        """Add up share[layer, source] * inbound[layer, destination] per link.

        Args:
            share: [layers, devices], or [1, devices] when it is the same for all layers.
            inbound: [layers, devices].

        Returns:
            Amounts [links, layers]: links first, because whole rows are gathered at once.
        """
        arriving, leaving = np.ascontiguousarray(inbound.T), np.ascontiguousarray(share.T)
        amounts = self.products.pooled(leaving, arriving)
        if self.products.link.size == self.links:
            return amounts
        result = np.zeros((self.links, inbound.shape[0]))
        result[self.products.link] = amounts
        if self.listed is not None:
            self.listed.add_pooled(leaving, arriving, result)
        return result

    def dense(self, matrix: FloatArray) -> FloatArray:
        """Add up amounts [layers, devices, devices] per link: [layers, links]."""
        result = np.zeros((matrix.shape[0], self.links))
        result[:, self.products.link] = self.products.dense(matrix)
        if self.listed is not None:
            self.listed.add_dense(matrix, result)
        return result
