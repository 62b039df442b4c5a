"""Hit rates of caches of every size, from stack distances (arXiv 2505.16056)."""

from __future__ import annotations

import json
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from moesim.errors import InputError
from moesim.routing.locality import Accesses, hit_rate_curves, stack, stack_distances

GOLDENS = Path(__file__).resolve().parents[2] / "shared" / "data" / "goldens"
FILES = sorted(path.name for path in GOLDENS.glob("lrc_*.json") if "reference" not in path.name)
POLICIES = [("lru", None), ("lfu", None), ("belady", None), ("sch", 1), ("sch", 5)]


@pytest.mark.skipif(not FILES, reason="the golden cases of the published measure are not at hand")
@pytest.mark.parametrize("name", FILES)
def test_curves_are_those_of_the_published_code(name):
    case = json.loads((GOLDENS / name).read_text())
    ids = np.array(case["topk_ids"])
    sequences, tokens, k = ids.shape
    accesses = Accesses.of(
        ids.reshape(sequences * tokens, 1, k), [tokens] * sequences, experts=case["num_experts"]
    )
    assert case["hit_rate_curves"]
    for which, wanted in case["hit_rate_curves"].items():
        policy, _, window = which.partition("_m")
        found = hit_rate_curves(accesses, policy.lower(), int(window) if window else None)[:, 0]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)


@st.composite
def routed(draw):
    """Return uneven sequences of tokens, and how many experts there are."""
    experts = draw(st.integers(2, 7))
    k, layers = draw(st.integers(1, experts)), draw(st.integers(1, 2))
    lengths = draw(st.lists(st.integers(1, 12), min_size=1, max_size=4))
    rng = np.random.default_rng(draw(st.integers(0, 1 << 30)))
    ids = rng.random((sum(lengths), layers, experts)).argsort(axis=2)[..., :k]
    return ids, lengths, experts


def explicit(tokens: list[list[int]], policy: str, window: int | None, size: int) -> float:
    """Return the hit rate of one cache that is simulated access by access."""
    cache: set[int] = set()
    last: dict[int, int] = {}
    uses: dict[int, int] = {}
    seen: set[int] = set()
    flat = [expert for token in tokens for expert in token]
    hits, now = 0, -1

    def worth(resident: int, position: int, turn: int) -> tuple[int, ...]:
        if policy == "lru":
            return (last[resident],)
        if policy == "lfu":
            return (uses[resident], last[resident])
        if policy == "belady":
            return (-next((at for at in range(now, len(flat)) if flat[at] == resident), 1 << 30),)
        coming = [tokens[position][turn:], *tokens[position + 1 : position + (window or 1)]]
        return (sum(part.count(resident) for part in coming), last[resident])

    for position, token in enumerate(tokens):
        before = set(cache)
        for expert in token:
            hits += expert in before if expert in seen else len(seen) < size
            seen.add(expert)
        for turn, expert in enumerate(token):
            now += 1
            if expert not in cache and len(cache) >= size:
                cache.remove(min(cache, key=lambda one, p=position, t=turn: worth(one, p, t)))
            cache.add(expert)
            last[expert], uses[expert] = now, uses.get(expert, 0) + 1
    return hits / len(flat)


@pytest.mark.parametrize(("policy", "window"), POLICIES)
@given(case=routed())
def test_one_pass_tells_what_caches_of_every_size_do(policy, window, case):
    ids, lengths, experts = case
    curves = hit_rate_curves(Accesses.of(ids, lengths, experts=experts), policy, window)
    starts = np.cumsum(lengths) - lengths
    for sequence, (start, length) in enumerate(zip(starts, lengths, strict=True)):
        for layer in range(ids.shape[1]):
            tokens = ids[start : start + length, layer].tolist()
            wanted = [explicit(tokens, policy, window, size) for size in range(1, experts + 1)]
            assert curves[sequence, layer] == pytest.approx(wanted)


@pytest.mark.parametrize(("policy", "window"), POLICIES)
@given(case=routed())
def test_many_rows_are_handled_otherwise_and_give_the_same(policy, window, case):
    ids, lengths, experts = case
    accesses = Accesses.of(ids, lengths, experts=experts)
    found = []
    for wide in (1, 1 << 30):
        with patch.object(stack, "_WIDE", wide):
            found.append(stack_distances(accesses, policy, window))
    assert (found[0] == found[1]).all()


@pytest.mark.parametrize(("policy", "window"), POLICIES)
def test_priorities_of_long_sequences(policy, window):
    """They need a wider type: LFU from some hundred tokens, the others later."""
    ids = np.random.default_rng(7).random((700, 1, 5)).argsort(axis=2)[..., :2]
    curve = hit_rate_curves(Accesses.of(ids, experts=5), policy, window)[0, 0]
    tokens = ids[:, 0].tolist()
    assert curve == pytest.approx([explicit(tokens, policy, window, size) for size in range(1, 6)])


@given(case=routed())
def test_larger_caches_hit_more_and_the_largest_always(case):
    ids, lengths, experts = case
    accesses = Accesses.of(ids, lengths, experts=experts)
    for both in (accesses, accesses.together()):
        for policy, window in POLICIES:
            curves = hit_rate_curves(both, policy, window)
            assert (np.diff(curves, axis=2) >= 0).all()
            assert (curves[..., -1] == 1).all()


@pytest.mark.parametrize(
    ("ids", "lengths", "said"),
    [
        ([[[0, 0]]], None, "twice"),
        ([[[0, 4]]], None, r"outside 0\.\.3"),
        ([[0, 1]], None, "shape"),
        ([[[0, 1]]], [2], "add up to 1"),
    ],
)
def test_wrong_tokens_are_refused(ids, lengths, said):
    with pytest.raises(InputError, match=said):
        Accesses.of(ids, lengths, experts=4)


def test_wrong_policies_and_windows_are_refused():
    accesses = Accesses.of([[[0, 1]]], experts=4)
    with pytest.raises(InputError, match="did you mean 'belady'"):
        hit_rate_curves(accesses, "beladi")
    with pytest.raises(InputError, match="window"):
        hit_rate_curves(accesses, "sch")
    with pytest.raises(InputError, match="window"):
        hit_rate_curves(accesses, "lru", 4)
