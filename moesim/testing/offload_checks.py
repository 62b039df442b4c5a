"""The contracts of cache, prefetch and miss policies of runs that offload experts."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from moesim.errors import InputError
from moesim.policies.cache.base import Access, CacheFrame, CachePolicy, Precisions
from moesim.policies.misses.base import Choice, MissPolicy, Needed
from moesim.policies.offload.hybrimoe import ExpertTimes
from moesim.policies.offload.precision import precision_of
from moesim.policies.prefetch.base import Outlook, PrefetchFrame, PrefetchPolicy, Wanted
from moesim.testing.common import check_description, decide, require, same

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class OffloadCase:
    """A model and the tokens that run through it.

    Attributes:
        name: name for messages.
        layers: MoE layers.
        experts: routed experts per layer.
        top_k: experts per token.
        slots: experts of each layer that the cache holds.
        passes: tokens of each pass through the model.
        seed: of the tokens.
        past: tokens before the run.
    """

    name: str
    layers: int
    experts: int
    top_k: int
    slots: int
    passes: tuple[int, ...]
    seed: int = 0
    past: int = 12

    def tokens(self, count: int, stream: int) -> Ints:
        """Return experts of tokens, [tokens, layers, k]."""
        random = np.random.default_rng((self.seed, stream))
        drawn = random.random((count, self.layers, self.experts)).argsort(axis=2)
        return drawn[..., : self.top_k].astype(np.int64)

    def iterations(self) -> list[Ints]:
        """Return the experts of each pass."""
        return [self.tokens(count, 2 + number) for number, count in enumerate(self.passes)]


CASES: Final = (
    OffloadCase("one token at a time", 3, 8, 2, 4, (1,) * 8),
    OffloadCase("a prompt, then tokens", 3, 8, 2, 4, (5, 1, 1, 4, 1), seed=1),
    OffloadCase("one layer", 1, 6, 2, 3, (1, 3, 1), seed=2),
    OffloadCase("one expert per token, a cache of two", 2, 5, 1, 2, (1, 1, 1, 1), seed=3),
    OffloadCase("all experts needed", 2, 3, 3, 3, (1, 2), seed=4),
    OffloadCase("one expert", 2, 1, 1, 1, (1, 2), seed=5),
    OffloadCase("no past", 2, 6, 2, 3, (1, 1, 2), seed=6, past=0),
)


def offload_cases() -> tuple[OffloadCase, ...]:
    """Return the built-in cases."""
    return CASES


def _copied(policy: Any, case: str) -> Any:
    """Return a pickled copy of a policy.

    Raises:
        AssertionError: it cannot be pickled.
    """
    try:
        return pickle.loads(pickle.dumps(policy))
    except Exception as error:
        message = f"it cannot be pickled, so runs cannot use several processes: {error}"
        require(False, policy, case, message)
        raise


def _kept(policy: Any, case: str, ask: Callable[[], Any]) -> Any:
    """Do something with a policy and blame it for what it raises.

    Raises:
        AssertionError: it raised.
        InputError: it refused.
    """
    try:
        return ask()
    except (InputError, AssertionError):
        raise
    except Exception as error:
        message = f"policy '{policy.name}', {case}: it raised {type(error).__name__}: {error}"
        raise AssertionError(message) from error


def check_cache_policy(
    policy: CachePolicy, cases: Iterable[OffloadCase] | None = None, drawn: bool = False
) -> None:
    """Check that a cache policy keeps the contract.

    It chooses sizes that fit, gives every expert that may come into a cache a priority, is deterministic and
    picklable, keeps nothing in the policy itself, leaves what it is told unchanged, and decides the same
    whether it is told of all caches at once, as in a replay, or of one layer after another, as in a run. What
    it does not declare (``needs_weights``, ``needs_profile``, ``oracle``) it must do without.

    Args:
        policy: the policy, with the parameters to check it with.
        cases: cases to try instead of the built-in ones.
        drawn: whether priorities are drawn anew each time that they are asked for.

    Raises:
        AssertionError: the policy breaks the contract; the message names policy, case and fault.
    """
    check_description(policy)
    for flag in ("needs_weights", "needs_profile", "oracle"):
        is_flag = isinstance(getattr(policy, flag, None), bool)
        require(is_flag, policy, "description", f"'{flag}' is not True or False")
    keeps = getattr(policy, "keeps", None)
    require(
        keeps in ("loaded", "fixed", "passing"),
        policy,
        "description",
        "'keeps' is not 'loaded', 'fixed' or 'passing'",
    )
    mix = _check_precisions(policy)
    for case in CASES if cases is None else cases:
        if policy.needs_profile and not case.past:
            continue
        for shared in (False, True):
            where = f"{case.name}, {'a shared cache' if shared else 'a cache per layer'}"
            _check_cache(policy, case, where, shared, mix, drawn)


def _check_precisions(policy: CachePolicy) -> Precisions | None:
    mix: Any = policy.precisions()
    require(mix is None or isinstance(mix, Precisions), policy, "precisions", "neither Precisions nor None")
    if mix is not None:
        fits = 0 <= mix.t1 <= mix.t2 <= 1 and 0 <= mix.low_share < 1 and 0 < mix.low_size <= 1
        require(fits, policy, "precisions", f"{mix} is out of range: t1 <= t2, shares from 0 to 1")
    return mix  # type: ignore[no-any-return]


def _check_cache(
    policy: CachePolicy,
    case: OffloadCase,
    where: str,
    shared: bool,
    mix: Precisions | None,
    drawn: bool,
) -> None:
    """Check sizes and priorities in one case."""
    caches = 1 if shared else case.layers
    capacity = np.full(caches, case.slots * (case.layers if shared else 1), dtype=np.int64)
    accesses = _accesses(policy, case, shared, mix)
    future = None
    if policy.oracle:
        most = max(access.ids.shape[1] for access in accesses)
        future = np.full((accesses[-1].step + 1, caches, most), -1, dtype=np.int64)
        for access in accesses:
            future[access.step, access.rows[:, 0], : access.ids.shape[1]] = access.ids
    past = case.tokens(case.past, 1)
    frame = CacheFrame(case.layers, case.experts, case.top_k, caches, capacity, past, future)
    sizes = _kept(policy, where, lambda: policy.sizes(frame))
    whole = isinstance(sizes, np.ndarray) and sizes.dtype == np.int64 and sizes.shape == (caches,)
    require(whole, policy, where, f"sizes are not int64 [{caches}]")
    require(bool((sizes >= 0).all()), policy, where, "a size is negative")
    within = int(sizes.sum()) <= int(capacity.sum())
    require(within, policy, where, f"sizes add up to {int(sizes.sum())}, more than the {int(capacity.sum())}")
    before = pickle.dumps((accesses, frame))
    first = _told(policy, frame, accesses, where)
    unchanged = pickle.dumps((accesses, frame)) == before
    require(unchanged, policy, where, "it changed what it was told")
    for other, what in (
        (policy, "the same run gave other priorities the second time; it keeps something in itself"),
        (_copied(policy, where), "a pickled copy gives other priorities"),
    ):
        again = _told(other, frame, accesses, where)
        require(same_all(first, again), policy, where, what)
    if not shared and not drawn:
        mine = _told(policy, frame, list(_together(accesses, case.layers)), where)
        # Each layer's own cache, after its own access.
        rows = [worth[layer] for worth in mine for layer in range(case.layers)]
        theirs = [worth[0] for worth in first][: len(rows)]
        text = "it decides otherwise when told of all caches at once than of one layer after another"
        require(same_all(rows, theirs), policy, where, text)


def same_all(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """Compare two lists of results exactly."""
    return len(left) == len(right) and all(same(a, b) for a, b in zip(left, right, strict=True))


def _accesses(policy: CachePolicy, case: OffloadCase, shared: bool, mix: Precisions | None) -> list[Access]:
    """Return the accesses of a run, layer by layer."""
    random = np.random.default_rng(case.seed)
    found: list[Access] = []
    for number, ids in enumerate(case.iterations()):
        for layer in range(case.layers):
            experts = np.unique(ids[:, layer]) if len(ids) > 1 else ids[0, layer]
            weights = np.sort(random.dirichlet(np.ones(len(experts))))[np.newaxis, ::-1].copy()
            first = layer * case.experts if shared else 0
            needs = policy.needs_weights or mix is not None
            found.append(
                Access(
                    step=number * case.layers + layer if shared else number,
                    rows=np.array([[0 if shared else layer]]),
                    ids=experts[np.newaxis] + first,
                    weights=weights if needs else None,
                    layer=np.array([[layer]]),
                    span=slice(first, first + case.experts),
                    precision=None if mix is None else precision_of(weights, mix.t1, mix.t2),
                )
            )
    return found


def _together(accesses: Sequence[Access], layers: int) -> Iterator[Access]:
    """Put the accesses of each token's layers together, as a replay does; as long as all are of one size."""
    for at in range(0, len(accesses), layers):
        parts = accesses[at : at + layers]
        if len({part.ids.shape[1] for part in parts}) > 1:
            return
        kinds = [part.precision for part in parts]
        weights = [part.weights for part in parts]
        yield Access(
            parts[0].step,
            np.concatenate([part.rows for part in parts]),
            np.concatenate([part.ids for part in parts]),
            None if weights[0] is None else np.concatenate([one for one in weights if one is not None]),
            np.concatenate([part.layer for part in parts]),
            parts[0].span,
            None if kinds[0] is None else np.concatenate([one for one in kinds if one is not None]),
        )


def _told(policy: CachePolicy, frame: CacheFrame, accesses: Sequence[Access], where: str) -> list[Floats]:
    """Tell a fresh state of all accesses; returns its priorities after each."""

    def run() -> list[Floats]:
        state = policy.start(frame)
        state.reset()
        found = []
        for access in accesses:
            state.see(access)
            worth = np.asarray(state.priorities(access))
            shape = (len(access.rows), frame.slots)
            require(worth.shape == shape, policy, where, f"priorities are {worth.shape}, not {shape}")
            require(not np.isnan(worth).any(), policy, where, "a priority is not a number")
            found.append(worth.astype(np.float64))
        state.reset()
        return found

    return _kept(policy, where, run)  # type: ignore[no-any-return]


def check_prefetch_policy(policy: PrefetchPolicy, cases: Iterable[OffloadCase] | None = None) -> None:
    """Check that a prefetch policy keeps the contract.

    It wants experts that there are, of later layers, each once, no more of a layer than its cache holds; it
    looks at the truth only if it says so and never at what is past; it is deterministic and picklable and
    keeps nothing in the policy itself.

    Args:
        policy: the policy, with the parameters to check it with.
        cases: cases to try instead of the built-in ones.

    Raises:
        AssertionError: the policy breaks the contract; the message names policy, case and fault.
    """
    check_description(policy)
    for flag in ("needs_profile", "given"):
        is_flag = isinstance(getattr(policy, flag, None), bool)
        require(is_flag, policy, "description", f"'{flag}' is not True or False")
    for case in CASES if cases is None else cases:
        if policy.needs_profile and not case.past:
            continue
        where = case.name
        seconds = _kept(policy, where, partial(policy.seconds, case.layers))
        fits = isinstance(seconds, (int, float)) and math.isfinite(seconds) and seconds >= 0
        require(fits, policy, where, f"predictions take {seconds!r} seconds")
        first = _foretold(policy, case)
        again = _foretold(policy, case)
        text = "the same run was foretold otherwise the second time; it keeps something in itself"
        require(first == again, policy, where, text)
        copy = _foretold(_copied(policy, where), case)
        require(first == copy, policy, where, "a pickled copy foretells something else")


def _foretold(policy: PrefetchPolicy, case: OffloadCase) -> list[Wanted]:
    """Ask a fresh state after each router; returns all that it wants."""
    sequence = np.sort(np.arange(case.past, dtype=np.int64) % 3)
    shape = (case.layers, case.experts, case.top_k)
    frame = PrefetchFrame(*shape, case.tokens(case.past, 1), sequence, case.seed)
    random = np.random.default_rng(case.seed)
    times = ExpertTimes(cpu_per_token=1.0, cpu_first=0.5, gpu=0.3, gpu_first=0.1, transfer=2.0)

    def run() -> list[Wanted]:
        state = policy.start(frame)
        state.reset()
        found: list[Wanted] = []
        for number, ids in enumerate(case.iterations()):
            for layer in range(-1, case.layers):
                if layer >= 0:
                    state.see(layer, ids[:, layer].copy())
                resident = [
                    set(random.permutation(case.experts)[: case.slots].tolist()) for _ in range(case.layers)
                ]
                outlook = Outlook(
                    iteration=number,
                    layer=layer,
                    tokens=len(ids),
                    prefill=len(ids) > 1,
                    resident=resident,
                    slots=[case.slots] * case.layers,
                    truth=_truth(policy, case, ids, layer) if policy.given else None,
                    times=times if number % 2 else None,
                )
                wanted = state.wanted(outlook)
                _check_wanted(policy, case, outlook, wanted)
                found.append(list(wanted))
        return found

    return _kept(policy, case.name, run)  # type: ignore[no-any-return]


def _truth(policy: PrefetchPolicy, case: OffloadCase, ids: Ints, layer: int) -> Callable[[int], Ints]:
    def truth(target: int) -> Ints:
        text = f"after layer {layer} it asked for the truth of layer {target}"
        require(layer < target, policy, case.name, text)
        return ids[:, target] if target < case.layers else ids[:0, 0]

    return truth


def _check_wanted(policy: PrefetchPolicy, case: OffloadCase, outlook: Outlook, wanted: Any) -> None:
    """Check what is wanted at one moment."""
    where = f"{case.name}, after layer {outlook.layer}"
    pairs = isinstance(wanted, list) and all(
        isinstance(one, tuple) and len(one) == 2 and all(isinstance(number, int) for number in one)
        for one in wanted
    )
    require(pairs, policy, where, "it wants something else than a list of (layer, expert) in plain numbers")
    require(len(set(wanted)) == len(wanted), policy, where, "it wants an expert twice")
    for layer, expert in wanted:
        ahead = outlook.layer < layer <= outlook.layer + case.layers
        require(ahead, policy, where, f"it wants an expert of layer {layer}")
        require(0 <= expert < case.experts, policy, where, f"it wants expert {expert} of {case.experts}")
    for layer in {layer for layer, _ in wanted}:
        chosen = {expert for one, expert in wanted if one == layer}
        there = outlook.resident[layer % case.layers] & chosen
        room = max(case.slots, len(there))
        text = f"it wants {len(chosen)} experts of layer {layer}, whose cache holds {case.slots}"
        require(len(chosen) <= room, policy, where, text)


@dataclass(frozen=True)
class _Line:
    """Seconds of an expert by its tokens."""

    start: float
    each: float

    def __call__(self, tokens: int) -> float:
        return self.start + self.each * tokens


def _needs() -> Iterator[tuple[str, Needed]]:
    """Yield situations in which a layer may be."""
    slow, quick = _Line(0.5, 1.0), _Line(1.0, 0.0)
    yield "nothing missing", Needed((0, 1), (1, 1), (True, True), (2,), False, slow, quick, 3.0)
    yield "one token", Needed((3, 1), (1, 1), (False, True), (0, 2, 3), False, slow, quick, 3.0)
    yield "one expert", Needed((0,), (1,), (False,), (0,), False, slow, quick, 3.0, 0.5)
    yield "all missing", Needed((2, 0, 1), (4, 1, 2), (False,) * 3, (0, 1, 2, 5), False, slow, quick, 3.0)
    random = np.random.default_rng(0)
    for number in range(20):
        experts = random.permutation(8)[: random.integers(1, 9)].tolist()
        tokens = random.integers(1, 40, len(experts)).tolist()
        there = (random.random(len(experts)) < 0.5).tolist()
        missing = [expert for expert, here in zip(experts, there, strict=True) if not here]
        others = [expert for expert in range(8) if expert not in experts and random.random() < 0.5]
        load = float(random.choice([0.01, 1.0, 50.0]))
        first, shared = (float(random.choice([0.0, 2.0])) for _ in range(2))
        yield (
            f"situation {number}",
            Needed(
                tuple(experts),
                tuple(tokens),
                tuple(there),
                tuple(sorted(missing + others)),
                number % 2 == 0,
                _Line(float(random.choice([0.0, 1.0])), float(random.choice([0.01, 1.0]))),
                quick,
                load,
                first,
                shared,
            ),
        )


def _asker(needed: Needed) -> Callable[[Any], Any]:
    def ask(policy: Any) -> Any:
        return policy.choose(needed)

    return ask


def check_miss_policy(policy: MissPolicy, cases: Iterable[tuple[str, Needed]] | None = None) -> None:
    """Check that a miss policy keeps the contract.

    Every needed expert that is absent is loaded or runs on the CPU, once; only absent experts are loaded
    and only needed ones run on the CPU, none of them if the policy says that it does not use it, and none
    that is not needed is loaded unless it says ``whole``; the policy is pure, deterministic and picklable.

    Args:
        policy: the policy, with the parameters to check it with.
        cases: situations to try instead of the built-in ones, each with a name; their functions must be
            picklable.

    Raises:
        AssertionError: the policy breaks the contract; the message names policy, case and fault.
    """
    check_description(policy)
    for flag in ("uses_cpu", "whole"):
        is_flag = isinstance(getattr(policy, flag, None), bool)
        require(is_flag, policy, "description", f"'{flag}' is not True or False")
    for name, needed in _needs() if cases is None else cases:
        choice: Any = decide(policy, name, _asker(needed), (needed,))
        require(isinstance(choice, Choice), policy, name, "it did not return a Choice")
        for part in ("loads", "cpu"):
            chosen = getattr(choice, part)
            require(isinstance(chosen, tuple), policy, name, f"'{part}' is not a tuple")
            require(len(set(chosen)) == len(chosen), policy, name, f"'{part}' names an expert twice")
        loads, cpu = set(choice.loads), set(choice.cpu)
        require(not loads & cpu, policy, name, "an expert is loaded and runs on the CPU")
        require(cpu <= set(needed.experts), policy, name, "an expert runs on the CPU that is not needed")
        require(policy.uses_cpu or not cpu, policy, name, "it uses the CPU and says that it does not")
        absent = {e for e, here in zip(needed.experts, needed.there, strict=True) if not here}
        text = "an expert is loaded that is there already"
        require(loads <= absent | set(needed.absent), policy, name, text)
        text = "an expert is loaded that is not needed, and it does not say 'whole'"
        require(policy.whole or loads <= absent, policy, name, text)
        left = sorted(absent - loads - cpu)
        require(
            not left, policy, name, f"nothing becomes of expert {left[0] if left else ''}, which is absent"
        )
