"""Every cache, prefetch and miss policy keeps its contract, and one that breaks it is told how."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import pytest
from offload_runs import described, ran

from moesim.errors import PolicyError
from moesim.policies.cache.base import CacheBase, Precisions, Recency
from moesim.policies.misses.base import Choice, MissBase, missing
from moesim.policies.offload.create import create_offload
from moesim.policies.offload.system import Offload
from moesim.policies.prefetch.base import PrefetchBase
from moesim.policies.presets import create_policy
from moesim.policies.registry import (
    create_cache,
    create_misses,
    create_prefetch,
    policy_types,
)
from moesim.testing import (
    OffloadCase,
    check_cache_policy,
    check_miss_policy,
    check_prefetch_policy,
    offload_cases,
)


@pytest.mark.parametrize("name", sorted(policy_types("cache")))
def test_cache_policies_keep_the_contract(name: str) -> None:
    check_cache_policy(create_cache(name), drawn=name == "random")


@pytest.mark.parametrize("name", sorted(policy_types("prefetch")))
def test_prefetch_policies_keep_the_contract(name: str) -> None:
    check_prefetch_policy(create_prefetch(name))


@pytest.mark.parametrize("name", sorted(policy_types("misses")))
@pytest.mark.parametrize("variant", ["paper", "repository"])
def test_miss_policies_keep_the_contract(name: str, variant: str) -> None:
    check_miss_policy(create_misses(name, {"variant": variant} if name == "hybrimoe" else {}))


def test_cases_may_be_chosen() -> None:
    case = OffloadCase("mine", 2, 4, 2, 3, (1, 2))
    check_cache_policy(create_cache("lru"), [case])
    check_prefetch_policy(create_prefetch("gate"), [case])
    assert len({case.name for case in offload_cases()}) == len(offload_cases())


class Cache(CacheBase):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "a cache of these tests"
    source: ClassVar[str] = "these tests"

    def start(self, frame: Any) -> Any:
        return Recency(frame)


class NoSummary(Cache):
    summary = " "


class NoFlag(Cache):
    oracle: Any = "no"


class Keeps(Cache):
    keeps = "some"


class Shared(Cache):
    def precisions(self) -> Precisions:
        return Precisions(0.9, 0.3, 0.5, 0.5)


class Larger(Cache):
    def sizes(self, frame: Any) -> Any:
        return frame.capacity + 1


class Halves(Cache):
    def sizes(self, frame: Any) -> Any:
        return frame.capacity / 2


class State(Recency):
    """Spoils what a subclass names."""


class Flat(State):
    def priorities(self, access: Any) -> Any:
        return self.last[0]


class NotANumber(State):
    def priorities(self, access: Any) -> Any:
        return np.full_like(self.last[access.rows[:, 0]], np.nan)


class Raises(State):
    def see(self, access: Any) -> None:
        raise KeyError("gone")


class Writes(State):
    def see(self, access: Any) -> None:
        access.ids[:] = 0


class Weighs(State):
    def see(self, access: Any) -> None:
        self.last[access.rows, access.ids] += access.weights


class Counts(State):
    """Counts accesses of all layers as one."""

    seen = 0

    def see(self, access: Any) -> None:
        self.seen += 1
        self.last[access.rows, access.ids] = self.seen


def cache_with(state: type[State]) -> Cache:
    class Spoilt(Cache):
        def start(self, frame: Any) -> Any:
            return state(frame)

        def __reduce__(self) -> Any:
            return (cache_with, (state,))

    return Spoilt()


class Remembers(Cache):
    """Keeps its state from run to run."""

    state: Any = None

    def start(self, frame: Any) -> Any:
        if self.state is None or self.state.last.shape != (frame.caches, frame.slots):
            self.state = Recency(frame)
        return self.state


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (NoSummary(), "'summary' is empty"),
        (NoFlag(), "'oracle' is not True or False"),
        (Keeps(), "'keeps' is not"),
        (Shared(), "out of range: t1 <= t2"),
        (Larger(), r"sizes add up to \d+, more than the \d+"),
        (Halves(), "sizes are not int64"),
        (cache_with(Flat), "priorities are"),
        (cache_with(NotANumber), "is not a number"),
        (cache_with(Raises), "it raised KeyError"),
        (cache_with(Writes), "it changed what it was told"),
        (cache_with(Weighs), "it raised"),
        (cache_with(Counts), "all caches at once"),
        (Remembers(), "it keeps something in itself"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_caches_are_told_how(policy: Any, fault: str) -> None:
    with pytest.raises(AssertionError, match=rf"policy 'mine'.*{fault}"):
        check_cache_policy(policy)


class Prefetch(PrefetchBase):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "a predictor of these tests"
    source: ClassVar[str] = "these tests"

    def start(self, frame: Any) -> Any:
        self.frame = frame
        return self

    def reset(self) -> None: ...

    def see(self, layer: int, ids: Any) -> None: ...

    def wanted(self, outlook: Any) -> Any:
        return []


class Twice(Prefetch):
    def wanted(self, outlook: Any) -> Any:
        return [(outlook.layer + 1, 0)] * 2


class Past(Prefetch):
    def wanted(self, outlook: Any) -> Any:
        return [(outlook.layer, 0)]


class Beyond(Prefetch):
    def wanted(self, outlook: Any) -> Any:
        return [(outlook.layer + 1, self.frame.experts)]


class Many(Prefetch):
    def wanted(self, outlook: Any) -> Any:
        return [(outlook.layer + 1, expert) for expert in range(self.frame.experts)]


class Numpy(Prefetch):
    def wanted(self, outlook: Any) -> Any:
        return [(outlook.layer + 1, np.int64(0))]


class Peeks(Prefetch):
    given = True

    def wanted(self, outlook: Any) -> Any:
        outlook.truth(max(outlook.layer, 0))
        return []


class Undeclared(Prefetch):
    def wanted(self, outlook: Any) -> Any:
        return outlook.truth(outlook.layer + 1).tolist()


class Learns(Prefetch):
    """Keeps what it saw from run to run."""

    seen = 0

    def wanted(self, outlook: Any) -> Any:
        self.seen += 1
        return [(outlook.layer + 1, self.seen % self.frame.experts)]


class TakesBack(Prefetch):
    def seconds(self, layers: int) -> float:
        return -1.0


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (Twice(), "it wants an expert twice"),
        (Past(), "it wants an expert of layer -1"),
        (Beyond(), "it wants expert 8 of 8"),
        (Many(), "it wants 8 experts of layer 0, whose cache holds 4"),
        (Numpy(), "plain numbers"),
        (Peeks(), "it asked for the truth of layer 0"),
        (Undeclared(), "it raised TypeError"),
        (Learns(), "it keeps something in itself"),
        (TakesBack(), "predictions take -1.0 seconds"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_predictors_are_told_how(policy: Any, fault: str) -> None:
    with pytest.raises(AssertionError, match=rf"policy 'mine'.*{fault}"):
        check_prefetch_policy(policy)


class Misses(MissBase):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "a rule of these tests"
    source: ClassVar[str] = "these tests"

    def choose(self, needed: Any) -> Any:
        return Choice(tuple(missing(needed)))


class Forgets(Misses):
    def choose(self, needed: Any) -> Any:
        return Choice(tuple(missing(needed)[1:]))


class Both(Misses):
    uses_cpu = True

    def choose(self, needed: Any) -> Any:
        return Choice(tuple(missing(needed)), tuple(missing(needed)))


class Silently(Misses):
    def choose(self, needed: Any) -> Any:
        return Choice((), tuple(missing(needed)))


class LoadsAll(Misses):
    def choose(self, needed: Any) -> Any:
        return Choice(needed.experts)


class LoadsMore(Misses):
    def choose(self, needed: Any) -> Any:
        return Choice((*missing(needed), *(e for e in needed.absent if e not in needed.experts)))


class Stranger(Misses):
    uses_cpu = True

    def choose(self, needed: Any) -> Any:
        return Choice(tuple(missing(needed)), (7,) if 7 not in needed.experts else ())


class Lists(Misses):
    def choose(self, needed: Any) -> Any:
        return Choice(missing(needed))  # type: ignore[arg-type]


class Moody(Misses):
    uses_cpu = True
    calls = 0

    def choose(self, needed: Any) -> Any:
        type(self).calls += 1
        absent = tuple(missing(needed))
        return Choice(absent) if self.calls % 2 else Choice((), absent)


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (Forgets(), "nothing becomes of expert"),
        (Both(), "is loaded and runs on the CPU"),
        (Silently(), "uses the CPU and says that it does not"),
        (LoadsAll(), "loaded that is there already"),
        (LoadsMore(), "does not say 'whole'"),
        (Stranger(), "runs on the CPU that is not needed"),
        (Lists(), "'loads' is not a tuple"),
        (Moody(), "another decision the second time"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_broken_miss_policies_are_told_how(policy: Any, fault: str) -> None:
    with pytest.raises(AssertionError, match=rf"policy 'mine'.*{fault}"):
        check_miss_policy(policy)


@pytest.mark.parametrize(
    ("policy", "fault"),
    [
        (Forgets(), "nothing becomes of expert"),
        (Both(), "is loaded and runs on the CPU"),
        (LoadsAll(), "is loaded and is there"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_run_stops_at_a_choice_that_breaks_the_contract(policy: Any, fault: str) -> None:
    made = create_offload({"slots": 3})
    offload = Offload(made.cache, made.prefetch, policy, made.settings)
    description = json.loads(json.dumps(described({"slots": 3})))
    with pytest.raises(PolicyError, match=rf"policy 'mine' failed while choosing .*{fault}"):
        ran(description, replace(create_policy("on_demand"), offload=offload))


def test_good_policies_of_ones_own_run() -> None:
    made = create_offload({"slots": 3})
    offload = Offload(Cache(), Prefetch(), Misses(), made.settings)
    check_cache_policy(Cache())
    check_prefetch_policy(Prefetch())
    check_miss_policy(Misses())
    description = json.loads(json.dumps(described({"slots": 3})))
    mine = ran(description, replace(create_policy("on_demand"), offload=offload))
    assert mine.totals == ran(description).totals
    assert mine.end == ran(description).end
