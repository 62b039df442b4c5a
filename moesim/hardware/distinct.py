"""How many different devices and nodes the experts of a token lie on, without replacement.

``k`` of ``E`` experts are chosen, all sets being equally likely. A unit (device or node) holding ``m`` of
them is missed with probability C(E - m, k) / C(E, k). If a token may reach at most ``G`` groups, those
with its best experts (DeepSeek's node-limited routing), let experts come in falling order of score: until
the G-th different group appears nothing is excluded, so it reaches ``min(G, D)`` groups where ``D`` is the
number of groups among its k best experts. Within them devices are taken as before, which is within 2 % of
drawn ones (early draws spread a little wider than uniform ones).

Where several groups share a unit (DeepSeek-V3's eight groups on four nodes), the groups reached are any of
all groups, and a unit is missed if none of its own is among them. Where a group spans several units, experts
are drawn one by one: among all units until the G-th different group appears, then among those of G groups.
"""

from __future__ import annotations

from functools import lru_cache
from math import comb

from moesim.errors import InputError


def distinct_units(units: int, experts: int, top_k: int) -> float:
    """Return the expected number of different units among a token's experts.

    Raises:
        InputError: experts do not divide evenly, or more are chosen than exist.
    """
    _check(units, experts, top_k)
    missed = comb(experts - experts // units, top_k) / comb(experts, top_k)
    return units * (1.0 - missed)


@lru_cache(maxsize=512)
def distinct_limited(groups: int, experts: int, top_k: int, limit: int) -> float:
    """Return the expected number of different groups if a token reaches at most ``limit``.

    Raises:
        InputError: as ``distinct_units``, or a limit below 1.
    """
    if limit < 1:
        message = "a token must reach at least one group"
        raise InputError(message)
    odds = _group_odds(groups, experts, top_k)
    return sum(min(count, limit) * chance for count, chance in enumerate(odds, start=1))


@lru_cache(maxsize=512)
def spared(units: int, experts: int, top_k: int, groups: int, limit: int) -> float:
    """Return different units that a token reaches under a group limit, over those it would reach without.

    Args:
        units: nodes or devices, in the order of the experts that they hold.
        experts: experts in all.
        top_k: experts of a token.
        groups: groups of experts, neighbours in one group.
        limit: groups that a token may reach.

    Raises:
        InputError: as ``distinct_limited``.
    """
    odds = _group_odds(groups, experts, top_k)
    if limit < 1:
        message = "a token must reach at least one group"
        raise InputError(message)
    if limit >= min(groups, top_k):
        return 1.0
    if groups % units == 0:
        own = groups // units

        def reached(bound: int) -> float:
            missed = (
                comb(groups - own, min(c, bound)) / comb(groups, min(c, bound)) for c in range(1, 1 + top_k)
            )
            return sum(chance * (1.0 - miss) for chance, miss in zip(odds, missed, strict=False))

        return reached(limit) / reached(groups)
    per_group = max(1.0, units / groups)
    few, many = (1.0 - _missed(groups, per_group, top_k, bound) for bound in (limit, groups))
    return few / many


def _missed(groups: int, per_group: float, top_k: int, limit: int) -> float:
    """Return the chance that a token reaches no expert of one unit of a group of several.

    Experts come one by one and independently. ``apart[n]`` is the chance that they lie in n groups so far,
    none of them the unit's; ``near[n]`` that one of them is, and the unit itself is still missed.
    """
    apart, near = [1.0] + [0.0] * limit, [0.0] * (limit + 1)
    for _ in range(top_k):
        apart_next, near_next = [0.0] * (limit + 1), [0.0] * (limit + 1)
        for seen in range(limit + 1):
            open_to = limit if seen == limit else groups
            other = (1.0 - 1.0 / per_group) / open_to
            if seen == limit:
                apart_next[seen] += apart[seen]
                near_next[seen] += near[seen] * ((seen - 1) / open_to + other)
            else:
                apart_next[seen] += apart[seen] * seen / open_to
                apart_next[seen + 1] += apart[seen] * (groups - 1 - seen) / open_to
                near_next[seen + 1] += apart[seen] * other + near[seen] * (groups - seen) / open_to
                near_next[seen] += near[seen] * (max(seen - 1, 0) / open_to + other)
        apart, near = apart_next, near_next
    return sum(apart) + sum(near)


@lru_cache(maxsize=512)
def _group_odds(groups: int, experts: int, top_k: int) -> tuple[float, ...]:
    """Return the chance that the experts of a token lie in exactly 1, 2, ... different groups."""
    _check(groups, experts, top_k)
    size, total = experts // groups, comb(experts, top_k)
    return tuple(
        comb(groups, count)
        * sum(
            (-1) ** (count - part) * comb(count, part) * comb(part * size, top_k)
            for part in range(1, count + 1)
        )
        / total
        for count in range(1, min(groups, top_k) + 1)
    )


def pairs_per_token(
    nodes: int, per_node: int, experts: int, top_k: int, limit: int | None = None
) -> tuple[float, float]:
    """Return expected (different nodes, different devices) of a token's experts.

    Args:
        nodes: nodes of the group.
        per_node: devices of a node.
        experts: experts in all, evenly spread.
        top_k: experts of a token.
        limit: nodes that a token may reach, any number if None.

    Raises:
        InputError: experts do not divide evenly, or more are chosen than a token can reach.
    """
    reach = nodes if limit is None else min(limit, nodes)
    devices = distinct_units(reach * per_node, experts // nodes * reach, top_k)
    return distinct_limited(nodes, experts, top_k, reach), devices


def _check(units: int, experts: int, top_k: int) -> None:
    if units < 1 or experts % units:
        message = f"{experts} experts cannot be spread evenly over {units}"
        raise InputError(message)
    if not 1 <= top_k <= experts:
        message = f"a token cannot choose {top_k} of {experts} experts"
        raise InputError(message)
